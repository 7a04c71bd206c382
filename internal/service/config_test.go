package service_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/wire"
)

type config struct {
	service.Common
	Database service.Database
	Interval time.Duration `env:"TEST_INTERVAL" desc:"An interval."`
	Second   second
}

type second struct {
	Interval time.Duration `env:"TEST_OTHER_INTERVAL" desc:"Another field of the same name."`
}

func defaults() config {
	return config{Common: service.DefaultCommon("127.0.0.1:0"), Database: service.DefaultDatabase(), Interval: time.Minute}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "picket.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadLayers(t *testing.T) {
	t.Parallel()
	got := defaults()
	err := service.Load(&got, service.Sources{
		File:    write(t, "settings:\n  test_interval: 90\n  picket_location: eu-west\n  picket_encoding: protobuf\nservers: []\n"),
		Environ: []string{"PICKET_LOCATION=us-east", "TEST_OTHER_INTERVAL=1m30s", "NATS_URL="},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Interval = 90 * time.Second
	want.Second.Interval = 90 * time.Second
	want.Location = "us-east"
	want.Encoding = wire.Protobuf
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadNamesEveryFault(t *testing.T) {
	t.Parallel()
	got := defaults()
	err := service.Load(&got, service.Sources{
		File:    write(t, "settings:\n  test_interval: soon\n  test_intervall: 1\n"),
		Environ: []string{"TEST_OTHER_INTERVAL=never", "LOG_LEVEL=loud", "DATABASE_URL_FILE=/does/not/exist"},
	})
	if !errors.Is(err, service.ErrConfig) {
		t.Fatalf("got %v, want ErrConfig", err)
	}
	for _, want := range []string{"TEST_INTERVAL: ", "TEST_OTHER_INTERVAL: ", "LOG_LEVEL: ", "DATABASE_URL_FILE: ", ":3:3: unknown setting test_intervall"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// TestLogLevel: what the source systems' files say of the level means the same here.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "INFO": slog.LevelInfo, "WARNING": slog.LevelWarn, "warn": slog.LevelWarn, "CRITICAL": slog.LevelError,
	} {
		got := defaults()
		if err := service.Load(&got, service.Sources{Environ: []string{"LOG_LEVEL=" + text}}); err != nil || got.LogLevel.Level() != want {
			t.Errorf("%s: %v (%v), want %v", text, got.LogLevel, err, want)
		}
	}
	got := defaults()
	err := service.Load(&got, service.Sources{Environ: []string{"LOG_LEVEL=loud"}})
	if err == nil || !strings.HasSuffix(err.Error(), `LOG_LEVEL: "loud" is no level: write DEBUG, INFO, WARN or ERROR`) {
		t.Errorf("loud: %v", err)
	}
}

func TestLoadSecretFromFile(t *testing.T) {
	t.Parallel()
	path := write(t, "postgres://x\n")
	got := defaults()
	if err := service.Load(&got, service.Sources{Environ: []string{"DATABASE_URL_FILE=" + path}}); err != nil {
		t.Fatal(err)
	}
	if got.Database.URL != "postgres://x" {
		t.Errorf("got %q", got.Database.URL)
	}
	if err := service.Load(&got, service.Sources{Environ: []string{"DATABASE_URL_FILE=" + path, "DATABASE_URL=postgres://y"}}); err == nil {
		t.Error("a variable and its file were both taken")
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"60": time.Minute, "0.5": 500 * time.Millisecond, "1h": time.Hour, "0": 0} {
		if got, err := service.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "soon", "NaN", "1e300", "-1e300", "+Inf"} {
		if got, err := service.ParseDuration(text); err == nil {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}

func TestDatabaseFamilies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		database service.Database
		address  string
		warns    bool
	}{
		"nothing set":       {service.Database{}, "postgres://iot:iot_dev@iot-postgres:5432/iotcloud", false},
		"one of PG_*":       {service.Database{PGHost: "db"}, "postgres://iot:iot_dev@db:5432/iotcloud", false},
		"one of POSTGRES_*": {service.Database{PostgresHost: "db"}, "postgres://unicorn:unicorn@db:5432/unicorn_db", false},
		"PG_* wins whole":   {service.Database{PGHost: "a", PostgresPassword: "p"}, "postgres://iot:iot_dev@a:5432/iotcloud", true},
		"URL wins":          {service.Database{URL: "postgres://u@h/d", PGHost: "a"}, "postgres://u@h/d", true},
		"odd characters":    {service.Database{PGHost: "db", PGPass: "p@ss/word:"}, "postgres://iot:p%40ss%2Fword%3A@db:5432/iotcloud", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, warning := test.database.Resolve()
			if address != test.address || (warning != "") != test.warns {
				t.Errorf("got %q, warning %q; want %q", address, warning, test.address)
			}
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	c := defaults()
	got := service.UnknownVariables(&c, []string{"PICKET_LOCATON=x", "PICKET_LOCATION=x", "HOME=/", "PICKET_WRITER_HEALTH_URL=x", "PICKET_NATS_CREDENTIALS_FILE=x"})
	if diff := cmp.Diff([]string{"PICKET_LOCATON"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"nats://a:4222": "nats://a:4222",
		"nats://u:geheim@a:4222,nats://u:g2@b:4222": "nats://u:xxxxx@a:4222,nats://u:xxxxx@b:4222",
	} {
		if got := service.Redact(address); got != want {
			t.Errorf("%q is shown as %q, want %q", address, got, want)
		}
	}
}
