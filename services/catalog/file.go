package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/picketd/picket/internal/catalog"
)

const (
	// fileSettle is how long the file must be left alone before it is read: an editor writes in several steps.
	fileSettle = 150 * time.Millisecond
	// fileSettleMost bounds that for a file that is written all the time.
	fileSettleMost = 2 * time.Second
)

// file is what is known of picket.yaml.
type file struct {
	path string
	// seen is the state of the last look, by which a poll tells whether to read.
	seen os.FileInfo
	// sum is that of the content last read; read is false before.
	sum  [sha256.Size]byte
	read bool
}

// watchFile reads the file at once and whenever it changes, until ctx ends: told by the system, by polling where that
// does not work (network file systems), and on a signal.
func (s *Service) watchFile(ctx context.Context) error {
	f := &file{path: s.config.File}
	s.readFile(f, false)

	var events <-chan fsnotify.Event
	var errs <-chan error
	if watcher, err := fsnotify.NewWatcher(); err != nil {
		s.log.InfoContext(ctx, "changes of the file are found by polling", "file", f.path, "err", err)
	} else {
		defer func() { _ = watcher.Close() }()
		// The directory: editors and Kubernetes put another file in the place of the old one.
		if err := watcher.Add(filepath.Dir(f.path)); err != nil {
			s.log.InfoContext(ctx, "changes of the file are found by polling", "file", f.path, "err", err)
		}
		events, errs = watcher.Events, watcher.Errors
	}
	poll := time.NewTicker(s.filePoll)
	defer poll.Stop()
	settle := time.NewTimer(0)
	settle.Stop()
	defer settle.Stop()
	var first time.Time // of the events that wait for the file to settle
	for {
		select {
		case event := <-events:
			if !f.concerns(event.Name) {
				continue
			}
			if first.IsZero() {
				first = time.Now()
			}
			settle.Reset(min(fileSettle, time.Until(first.Add(fileSettleMost))))
		case <-settle.C:
			first = time.Time{}
			s.readFile(f, false)
		case <-poll.C:
			if f.moved() && first.IsZero() {
				first = time.Now()
				settle.Reset(fileSettle)
			}
		case <-s.reload:
			s.readFile(f, true)
		case err := <-errs:
			s.log.DebugContext(ctx, "file watcher lost events", "err", err)
		case <-ctx.Done():
			return nil
		}
	}
}

// concerns reports whether a change of that name may change what the file holds. Kubernetes moves the link ..data.
func (f *file) concerns(name string) bool {
	base := filepath.Base(name)
	return base == filepath.Base(f.path) || base == "..data"
}

// moved reports whether the file looks otherwise than at the last look.
func (f *file) moved() bool {
	now, err := os.Stat(f.path)
	if err != nil || f.seen == nil {
		return (err == nil) != (f.seen != nil)
	}
	return !os.SameFile(now, f.seen) || now.Size() != f.seen.Size() || !now.ModTime().Equal(f.seen.ModTime())
}

// readFile takes over what the file declares. What cannot be read or is wrong is said once, and what was read last
// stays in force.
func (s *Service) readFile(f *file, asked bool) {
	data, err := f.load()
	if err != nil {
		s.reportRead(catalog.SourceFile, err)
		f.read = false
		return
	}
	sum := sha256.Sum256(data)
	if f.read && sum == f.sum && !asked {
		return
	}
	f.read, f.sum = true, sum
	parsed, err := catalog.Parse(f.path, data, catalog.Defaults{
		Interval: s.config.Interval, MetricsInterval: s.config.MetricsInterval, Locations: []string{s.kit.Location},
	})
	s.reportRead(catalog.SourceFile, err)
	if err != nil {
		return
	}
	s.sources.put(&declaration{
		source: catalog.SourceFile, servers: parsed.Servers, confirm: parsed.ConfirmRemoval,
		file: f.path, positions: parsed.Positions,
	})
	s.log.Info("file read", "file", f.path, "servers", len(parsed.Servers))
	s.stir()
}

// load reads a bounded file and remembers how it looked.
func (f *file) load() ([]byte, error) {
	f.seen = nil
	opened, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", f.path)
	}
	f.seen = info
	var data bytes.Buffer
	// One byte more than may be, so that Parse sees that it is too long.
	if _, err := data.ReadFrom(io.LimitReader(opened, catalog.MaxFileBytes+1)); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return data.Bytes(), nil
}

// reportRead and reportApply say what is wrong with a source: in the log once for every edit, and as long as it lasts in
// health and metrics. The service stays ready: what it read last is in force.
func (s *Service) reportRead(source catalog.Source, err error) {
	s.sources.readFailed(source, err)
	if err != nil {
		s.log.Error("source refused, what was read last stays in force", "source", string(source), "err", err)
	}
	s.showProblem(source)
}

func (s *Service) reportApply(source catalog.Source, err error) {
	if news := s.sources.applyFailed(source, err); news && err != nil {
		s.log.Error("source not applied, what was applied last stays in force", "source", string(source), "err", err)
	}
	s.showProblem(source)
}

func (s *Service) showProblem(source catalog.Source) {
	problem := s.sources.problemOf(source)
	s.kit.Health.SetDegraded("source_"+string(source), problem)
	refused := 0.0
	if problem != nil {
		refused = 1
	}
	s.metrics.refused.WithLabelValues(string(source)).Set(refused)
}
