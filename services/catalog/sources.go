package catalog

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/picketd/picket/internal/catalog"
)

// sources are the declarations that this process has read. It is safe for concurrent use.
type sources struct {
	mu sync.Mutex
	// list is in the order in which names are given away.
	list []*declaration
	// problems are what is wrong with each source now: with reading it, and with applying it.
	problems map[catalog.Source]*trouble
}

// declaration is all that one source declares.
type declaration struct {
	source  catalog.Source
	servers []catalog.Server
	// confirm is the number of removals that the declaration itself confirms.
	confirm int
	// positions say where each server stands in file; empty: nowhere.
	file      string
	positions []catalog.Position
}

type trouble struct{ reading, applying error }

// newSources reads the declarations that do not change while the process lives.
func newSources(config Config, deps Deps) (*sources, error) {
	// What names no location stands where this process stands.
	here := []string{deps.Kit.Location}
	env, err := catalog.FromEnviron(deps.Environ, catalog.Defaults{Interval: config.EnvInterval, Locations: here})
	if err != nil {
		return nil, err
	}
	var own []catalog.Server
	var faults []error
	for _, server := range self(config, deps.Builtin) {
		server.Checks = slices.Clone(server.Checks)
		server.Source = catalog.SourceSelf
		server.Complete(catalog.Defaults{Interval: config.Interval, MetricsInterval: config.MetricsInterval, Locations: here})
		faults = append(faults, server.Validate("builtin "+server.Name).Err())
		own = append(own, server)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	s := &sources{problems: map[catalog.Source]*trouble{
		catalog.SourceSelf: {}, catalog.SourceEnv: {}, catalog.SourceFile: {},
	}}
	s.put(&declaration{source: catalog.SourceSelf, servers: own})
	s.put(&declaration{source: catalog.SourceEnv, servers: env})
	if config.File == "" {
		// A file that is not named any more declares nothing.
		s.put(&declaration{source: catalog.SourceFile})
	}
	return s, nil
}

// put replaces what a source declares. A source that was never read is not there, so that nothing of it is removed.
func (s *sources) put(d *declaration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, old := range s.list {
		if old.source == d.source {
			s.list[i] = d
			return
		}
	}
	s.list = append(s.list, d)
}

// all returns the declarations; they do not change.
func (s *sources) all() []*declaration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// readFailed says what is wrong with reading a source, nil when nothing is any more.
func (s *sources) readFailed(source catalog.Source, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems[source].reading = err
}

// applyFailed says what is wrong with applying a source, nil when nothing is any more. It reports whether that is news:
// applying is tried again and again.
func (s *sources) applyFailed(source catalog.Source, err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.problems[source]
	news = !sameError(t.applying, err)
	t.applying = err
	return news
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}

// problemOf is what is wrong with one source now.
func (s *sources) problemOf(source catalog.Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.problems[source]
	return errors.Join(t.reading, t.applying)
}

// problem is what is wrong with any source now.
func (s *sources) problem() error {
	var all []error
	for _, source := range []catalog.Source{catalog.SourceSelf, catalog.SourceEnv, catalog.SourceFile} {
		if err := s.problemOf(source); err != nil {
			all = append(all, fmt.Errorf("source %s: %w", source, err))
		}
	}
	return errors.Join(all...)
}

// conflictError says where each conflict stands.
func (d *declaration) conflictError(conflicts []catalog.Conflict) error {
	faults := make(catalog.Faults, 0, len(conflicts))
	for _, conflict := range conflicts {
		fault := catalog.Fault{Message: conflict.Error()}
		for i := range d.positions {
			if d.servers[i].Key() == conflict.Key {
				fault.File, fault.Line, fault.Column = d.file, d.positions[i].Line, d.positions[i].Column
				fault.Path = fmt.Sprintf("servers[%d]", i)
			}
		}
		faults = append(faults, fault)
	}
	return faults
}
