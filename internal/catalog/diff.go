package catalog

import (
	"cmp"
	"fmt"
	"slices"
)

// A plan that removes more than heldAbove servers and more than half of what its source has is held until confirmed: a
// file cut short must not end the watch over a fleet.
const heldAbove = 5

// Key names a server in the whole catalog.
type Key struct{ Org, Name string }

// Key is the server's key.
func (s *Server) Key() Key { return Key{s.Org, s.Name} }

// String is org/name, or the name alone in the default organization.
func (k Key) String() string {
	if k.Org == DefaultOrg {
		return k.Name
	}
	return k.Org + "/" + k.Name
}

// Plan is the way from what the database holds of one source to what the source declares.
type Plan struct {
	Source Source
	// Add and Change are the servers as declared; those of Change have the ID and Revision that they are based on.
	Add    []Server
	Change []ServerChange
	// Remove are the servers as the database holds them.
	Remove []Server
	// Total is how many servers of the source the database holds.
	Total int
}

// ServerChange is a server that differs from what the database holds.
type ServerChange struct {
	// Server is as declared, with ID and Revision of what the database holds.
	Server Server
	// Self: fields of the server itself differ, besides its checks.
	Self bool
	// Lifecycle differs, so that every prober must hear of it.
	Lifecycle bool
	// Credential differs, so that whoever presents it must hear of it.
	Credential bool
	// Rotated: the token itself differs, and not only the way it is sealed.
	Rotated bool
	// Checks are the names of those that are new, differ, or return.
	Checks []string
	// Gone are the IDs of checks that are no longer declared.
	Gone []string
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Add)+len(p.Change)+len(p.Remove) == 0 }

// Conflict is a server that a source declares while another one holds its name.
type Conflict struct {
	Key Key
	// Holder is the source that has the name.
	Holder Source
}

// Error says what to do.
func (c Conflict) Error() string {
	return fmt.Sprintf("server %s is held by the source %s: remove it there first, or give this one another name", c.Key, c.Holder)
}

// Diff plans the way from current (live servers of all sources) to declared (all servers of one source, complete and
// valid). Names that other sources hold are conflicts, and then there is no plan: a source is applied whole or not at
// all.
func Diff(source Source, declared, current []Server) (Plan, []Conflict) {
	plan := Plan{Source: source}
	held := make(map[Key]*Server, len(current))
	for i := range current {
		if current[i].Change != Removed {
			held[current[i].Key()] = &current[i]
		}
	}
	var conflicts []Conflict
	wanted := make(map[Key]bool, len(declared))
	for _, server := range declared {
		key := server.Key()
		wanted[key] = true
		have, known := held[key]
		switch {
		case !known:
			plan.Add = append(plan.Add, server)
		case have.Source != source:
			conflicts = append(conflicts, Conflict{Key: key, Holder: have.Source})
		default:
			if change, differs := compare(server, have); differs {
				plan.Change = append(plan.Change, change)
			}
		}
	}
	if len(conflicts) > 0 {
		return Plan{Source: source}, conflicts
	}
	for key, have := range held {
		if have.Source != source {
			continue
		}
		plan.Total++
		if !wanted[key] {
			plan.Remove = append(plan.Remove, *have)
		}
	}
	slices.SortFunc(plan.Remove, func(a, b Server) int {
		return cmp.Or(cmp.Compare(a.Org, b.Org), cmp.Compare(a.Name, b.Name))
	})
	return plan, nil
}

func compare(server Server, have *Server) (ServerChange, bool) {
	server.ID, server.Revision = have.ID, have.Revision
	change := ServerChange{
		Server: server, Self: !sameServer(&server, have), Lifecycle: server.Lifecycle != have.Lifecycle,
		Credential: !sameCredential(server.Credential, have.Credential), Rotated: !sameToken(server.Credential, have.Credential),
	}
	held := make(map[string]*Check, len(have.Checks))
	for i := range have.Checks {
		held[have.Checks[i].Name] = &have.Checks[i]
	}
	for i := range server.Checks {
		check := &server.Checks[i]
		if old, known := held[check.Name]; !known || !sameCheck(check, old) || change.Credential && check.presentsToken() {
			change.Checks = append(change.Checks, check.Name)
		}
		delete(held, check.Name)
	}
	for _, old := range held {
		if !old.Removed {
			change.Gone = append(change.Gone, old.ID)
		}
	}
	slices.Sort(change.Gone)
	return change, change.Self || change.Credential || len(change.Checks)+len(change.Gone) > 0
}

// Held is an error when the plan removes so many servers that somebody must confirm it, by naming their number.
// Picket's own servers come from a program, not from an edit, and are never held.
func (p *Plan) Held(confirmed int) error {
	n := len(p.Remove)
	if p.Source == SourceSelf || n <= heldAbove || 2*n <= p.Total || n == confirmed {
		return nil
	}
	return &HeldError{Source: p.Source, Removed: n, Total: p.Total}
}

// HeldError says that a plan waits for confirmation.
type HeldError struct {
	Source         Source
	Removed, Total int
}

func (e *HeldError) Error() string {
	how := fmt.Sprintf("start with PICKET_CATALOG_CONFIRM_REMOVAL=%d", e.Removed)
	if e.Source == SourceFile {
		how = fmt.Sprintf("write `confirm_removal: %d` into the file, or %s", e.Removed, how)
	}
	return fmt.Sprintf("this would remove %d of %d servers of the source %s; nothing of it was applied. To confirm, %s",
		e.Removed, e.Total, e.Source, how)
}
