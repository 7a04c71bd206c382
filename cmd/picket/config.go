package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
)

//go:embed picket.example.yaml
var exampleConfig []byte

type configCommand struct {
	Init  configInitCommand  `cmd:"" help:"Write a picket.yaml to start from."`
	Check configCheckCommand `cmd:"" help:"Check a file and the environment without running anything."`
	Print configPrintCommand `cmd:"" help:"Show every setting with its value; secrets masked."`
}

type configInitCommand struct {
	File string `arg:"" optional:"" default:"picket.yaml" type:"path" help:"Where to write it."`
}

// Run writes the example, and never over a file that is there.
func (c *configInitCommand) Run(std console) error {
	file, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already and stays as it is", c.File)
	}
	if err != nil {
		return fmt.Errorf("write the example: %w", err)
	}
	if _, err := file.Write(exampleConfig); err != nil {
		return errors.Join(fmt.Errorf("write the example: %w", err), file.Close())
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("write the example: %w", err)
	}
	_, err = fmt.Fprintf(std.err, "Wrote %s. Check it with `%s config check %s`, run it with `%s up -c %s`.\n", c.File, command(), c.File, command(), c.File)
	return err
}

type configCheckCommand struct {
	File string `arg:"" optional:"" env:"PICKET_CONFIG" type:"path" help:"The file (picket.yaml in the working directory when it is there)."`
}

// Run reports every fault of the file and of the environment.
func (c *configCheckCommand) Run(std console) error {
	file := configFile(c.File)
	s, err := loadSettings(file)
	faults := []error{err}
	servers := 0
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		parsed, err := catalog.Parse(file, data, catalog.Defaults{Interval: s.Catalog.Interval, MetricsInterval: s.Catalog.MetricsInterval})
		if err != nil {
			faults = append(faults, err)
		} else {
			servers += len(parsed.Servers)
		}
	}
	declared, err := catalog.FromEnviron(os.Environ(), catalog.Defaults{Interval: s.Catalog.EnvInterval})
	faults = append(faults, err)
	servers += len(declared)
	if err := errors.Join(faults...); err != nil {
		return &exitError{service.ExitUsage, err}
	}
	from := "the environment"
	if file != "" {
		from = file + " and the environment"
	}
	_, err = fmt.Fprintf(std.out, "ok: %d servers in %s\n", servers, from)
	return err
}

type configPrintCommand struct {
	Config string `short:"c" env:"PICKET_CONFIG" type:"path" help:"YAML file (picket.yaml in the working directory when it is there)."`
	Output string `enum:"env,markdown" default:"env" short:"o" help:"env: as variables with their values; markdown: the reference table with defaults."`
}

// Run prints the settings that count, or the reference.
func (c *configPrintCommand) Run(std console) error {
	if c.Output == "markdown" {
		defaults := defaultSettings()
		_, err := fmt.Fprint(std.out, settingsTable(service.Describe(&defaults)))
		return err
	}
	s, err := loadSettings(configFile(c.Config))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, setting := range service.Describe(&s) {
		if seen[setting.Name] {
			continue
		}
		seen[setting.Name] = true
		value := setting.Default
		switch {
		case setting.Secret && value != "":
			value = "********"
		case setting.Name == "NATS_URL":
			value = service.Redact(value)
		}
		if _, err := fmt.Fprintf(std.out, "%s=%s\n", setting.Name, value); err != nil {
			return err
		}
	}
	return nil
}

// settingsTable is the body of docs/configuration.md.
func settingsTable(settings []service.Setting) string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	seen := map[string]bool{}
	for _, setting := range settings {
		if seen[setting.Name] {
			continue
		}
		seen[setting.Name] = true
		value := ""
		if setting.Default != "" {
			value = "`" + setting.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", setting.Name, value, setting.Description)
	}
	return b.String()
}
