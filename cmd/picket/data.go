package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/picketd/picket/internal/embedded"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
)

type migrateCommand struct {
	Config string `short:"c" env:"PICKET_CONFIG" type:"path" help:"YAML file with settings."`
	Check  bool   `help:"Only say whether the schema is up to date."`
}

func (migrateCommand) Help() string {
	return `The database is that of DATABASE_URL, PG_* or POSTGRES_*. picket up migrates its own by itself.

Example:
  DATABASE_URL=postgres://picket@db/picket picket migrate`
}

// Run migrates the configured database.
func (c *migrateCommand) Run(ctx context.Context, std console) error {
	s, err := loadSettings(configFile(c.Config))
	if err != nil {
		return err
	}
	if !s.Configured() {
		return &exitError{service.ExitUsage, errors.New("no database is configured: set DATABASE_URL (picket up migrates its private one by itself)")}
	}
	address, warning := s.Resolve()
	if warning != "" {
		_, _ = fmt.Fprintln(std.err, "picket:", warning)
	}
	db, err := store.Open(ctx, store.Options{URL: address, Log: slog.New(slog.DiscardHandler), MaxConns: 2})
	if err != nil {
		return err
	}
	defer db.Close()
	if !c.Check {
		if err := db.Migrate(ctx); err != nil {
			return err
		}
	}
	if err := db.CheckSchema(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintln(std.out, "ok: the schema is up to date")
	return err
}

type resetCommand struct {
	Config  string `short:"c" env:"PICKET_CONFIG" type:"path" help:"YAML file whose settings may name the data directory (picket.yaml in the working directory when it is there)."`
	DataDir string `type:"path" help:"The data directory."`
	Yes     bool   `short:"y" help:"Do not ask."`
}

func (resetCommand) Help() string {
	return `Removes results, alerts, streams, exports and the private database under the data directory. A database of
yours (DATABASE_URL and the like) is not touched. picket up must not be running.`
}

// Run removes what up has stored: its own directories, nothing else.
func (c *resetCommand) Run(ctx context.Context, std console) error {
	dir := c.DataDir
	if dir == "" {
		s, err := loadSettings(configFile(c.Config))
		if err != nil {
			return err
		}
		dir = s.DataDir
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		_, err := fmt.Fprintf(std.err, "Nothing in %s.\n", dir)
		return err
	}
	if !c.Yes {
		_, _ = fmt.Fprintf(std.err, "Remove everything that Picket has stored in %s? [y/N] ", dir)
		line, err := bufio.NewReader(std.in).ReadString('\n')
		if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
			return errors.New("nothing removed (--yes answers yes)")
		}
	}
	if err := removeNATS(filepath.Join(dir, "nats")); err != nil {
		return err
	}
	// With a database of yours the key still opens what is sealed there, and the token is still the one it knows.
	remove := []string{exportsDir}
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
		remove = append(remove, adminTokenFile, secretKeyFile)
	}
	if err := embedded.Discard(ctx, filepath.Join(dir, "postgres")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range remove {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	// The directory itself goes when nothing else is in it.
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	_, err := fmt.Fprintf(std.err, "Removed what Picket had stored in %s.\n", dir)
	return err
}

// removeNATS refuses a store that a running server holds.
func removeNATS(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := embedded.LockDir(dir)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return errors.Join(fmt.Errorf("remove the streams: %w", err), lock.Unlock())
	}
	return lock.Unlock()
}
