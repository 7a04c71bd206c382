package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/services/alerter"
	"github.com/picketd/picket/services/api"
	"github.com/picketd/picket/services/catalog"
	"github.com/picketd/picket/services/collector"
	"github.com/picketd/picket/services/exporter"
	"github.com/picketd/picket/services/prober"
	"github.com/picketd/picket/services/writer"
)

// settings is everything that `picket up` can be told: the sum of what the
// services can be told, and where its own parts are.
type settings struct {
	service.Common
	service.Database
	service.Secrets
	DataDir    string `env:"PICKET_DATA_DIR" desc:"Where picket up keeps everything; empty: /var/lib/picket as root, the XDG state directory as another user."`
	NATSListen string `env:"PICKET_NATS_LISTEN" desc:"Address of the NATS server inside picket up."`
	Catalog    catalog.Config
	Prober     prober.Config
	Collector  collector.Config
	Writer     writer.Config
	Alerter    alerter.Config
	Exporter   exporter.Config
	API        api.Config
	Blob       blob.Config
}

func defaultSettings() settings {
	common := service.DefaultCommon("127.0.0.1:9460")
	common.NATSURL = "" // the one inside
	return settings{
		Common:     common,
		Database:   service.DefaultDatabase(),
		NATSListen: embedded.DefaultNATSListen,
		Catalog:    catalog.DefaultConfig(),
		Prober:     prober.DefaultConfig(),
		Collector:  collector.DefaultConfig(),
		Writer:     writer.DefaultConfig(),
		Alerter:    alerter.DefaultConfig(),
		Exporter:   exporter.DefaultConfig(),
		API:        api.DefaultConfig(), // on the listener of this process
		Blob:       blob.DefaultConfig(),
	}
}

// Validate checks every part.
func (s *settings) Validate() error {
	return errors.Join(s.Catalog.Validate(), s.Prober.Validate(), s.Collector.Validate(), s.Writer.Validate(), s.Alerter.Validate(),
		s.Exporter.Validate(), s.API.Validate(), s.exports().Validate())
}

// exports says where the exports are: in the data directory when nothing else is said.
func (s *settings) exports() blob.Config {
	config := s.Blob
	if config.Endpoint == "" && config.Dir == "" {
		config.Dir = filepath.Join(s.DataDir, exportsDir)
	}
	return config
}

// loadSettings reads the defaults, the file and the environment.
func loadSettings(file string) (settings, error) {
	s := defaultSettings()
	if err := service.Load(&s, service.Sources{File: file, Environ: os.Environ()}); err != nil {
		return settings{}, err
	}
	if s.DataDir == "" {
		dir, err := defaultDataDir()
		if err != nil {
			return settings{}, err
		}
		s.DataDir = dir
	}
	s.Catalog.File = file
	return s, nil
}

func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/picket", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "picket"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the data, name one with --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "state", "picket"), nil
}

// configFile is the file that counts: the flag, PICKET_CONFIG (by the flag's
// own variable), or picket.yaml in the working directory when it is there.
func configFile(flag string) string {
	if flag != "" {
		return flag
	}
	if _, err := os.Stat("picket.yaml"); err == nil {
		return "picket.yaml"
	}
	return ""
}
