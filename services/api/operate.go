package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

const (
	// operationLease is how long an operation is left alone when whoever did it fell silent.
	operationLease = 15 * time.Second
	// operationPoll is how often a replica looks for operations that nobody does.
	operationPoll = 2 * time.Second
	// operationsAtOnce is how many operations one replica carries out at a time, each of another organization or kind.
	operationsAtOnce = 4
	// operationServers is how many servers of an operation are dealt with at a time.
	operationServers = 8
	// operationChunk is how many are read at a time.
	operationChunk = 200
	// editTries is how often a change is made anew when somebody else changed the server meanwhile.
	editTries = 5
	// editTimeout bounds what is done to one server, but for runs, which have their own.
	editTimeout = 15 * time.Second
)

// wakeOperations has this replica look for operations now.
func (s *Service) wakeOperations() {
	select {
	case s.operations <- struct{}{}:
	default:
	}
}

// operate carries out operations, some at a time, until ctx ends.
func (s *Service) operate(ctx context.Context) {
	if s.store.WaitForSchema(ctx) != nil {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	hands := make(chan struct{}, operationsAtOnce)
	poll := time.NewTicker(operationPoll)
	defer poll.Stop()
	for {
		// Nothing is claimed that would have to wait.
		select {
		case hands <- struct{}{}:
		case <-ctx.Done():
			return
		}
		o, err := s.store.ClaimOperation(ctx, s.owner, operationLease)
		if err == nil {
			group.Go(func() {
				if err := s.carryOut(ctx, o); err != nil && ctx.Err() == nil {
					s.log.WarnContext(ctx, "operation left to whoever comes", "operation", o.ID, "err", err)
				}
				<-hands
				s.wakeOperations() // another may have waited for this one
			})
			continue
		}
		<-hands
		if ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
			s.log.DebugContext(ctx, "operations not looked at", "err", err)
		}
		select {
		case <-poll.C:
		case <-s.operations:
		case <-ctx.Done():
			return
		}
	}
}

// carryOut does what is left of an operation. Its error says that it is not done; the lease runs out, or is given back.
func (s *Service) carryOut(ctx context.Context, o store.Operation) error {
	s.log.InfoContext(ctx, "operation started", "operation", o.ID, "type", o.Type, "servers", o.Total, "epoch", o.LeaseEpoch)
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		s.holdOperation(work, o, stop)
	}()
	err := s.dealWithServers(work, o)
	stop(err)
	<-renewed
	if err == nil {
		err = s.store.FinishOperation(ctx, o)
	}
	if err != nil {
		// Another replica, or this one after its restart, need not wait for the lease to end.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.store.ReleaseOperation(last, o) // it ends by itself
		if !errors.Is(err, store.ErrLeaseLost) && ctx.Err() == nil {
			sleep(ctx, operationPoll) // what failed would fail again at once
		}
		return err
	}
	return nil
}

// holdOperation renews the lease until ctx ends, and ends the work when it is lost.
func (s *Service) holdOperation(ctx context.Context, o store.Operation, lost context.CancelCauseFunc) {
	held := time.Now()
	for sleep(ctx, operationLease/10) {
		now := time.Now()
		err := s.store.RenewOperation(ctx, o, operationLease)
		switch {
		case err == nil:
			held = now
		case ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrLeaseLost), time.Since(held) > operationLease:
			lost(err)
			return
		}
	}
}

func (s *Service) dealWithServers(ctx context.Context, o store.Operation) error {
	for {
		servers, err := s.store.NextOperationServers(ctx, o, operationChunk)
		if err != nil || len(servers) == 0 {
			return err
		}
		group, work := errgroup.WithContext(ctx)
		group.SetLimit(operationServers)
		for _, server := range servers {
			group.Go(func() error {
				if work.Err() != nil {
					return context.Cause(work)
				}
				return s.dealWithServer(work, o, server)
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if current, err := s.store.Operation(ctx, o.Org, o.ID); err != nil || !current.CancelAt.IsZero() {
			return err
		}
	}
}

// dealWithServer does the operation to one server and notes what became of it. An error says that this could not be
// found out or noted: it will be done again.
func (s *Service) dealWithServer(ctx context.Context, o store.Operation, server store.OperationServer) error {
	var (
		result json.RawMessage
		err    error
	)
	switch o.Type {
	case store.OperationCheckNow:
		result, err = s.checkForOperation(ctx, o, server)
	default:
		err = s.editForOperation(ctx, o, server)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failure := ""
	if err != nil {
		if class := store.Classify(err); class == store.Unavailable || class == store.Retry {
			return err // nothing is wrong with the server
		}
		failure = s.forPeople(ctx, err)
	}
	return s.store.FinishOperationServer(ctx, o, server.Position, failure, result)
}

// refusalError is why an operation does not do something to a server, in words for people.
type refusalError string

func (e refusalError) Error() string { return string(e) }

// forPeople is what people are told of an error: ours are for the log.
func (s *Service) forPeople(ctx context.Context, err error) string {
	if refused, ok := errors.AsType[refusalError](err); ok {
		return string(refused)
	}
	if faults, ok := errors.AsType[catalog.Faults](err); ok {
		return faults.Error()
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "the server is gone"
	case errors.Is(err, store.ErrStale):
		return "others change the server all the time"
	}
	s.log.ErrorContext(ctx, "operation failed on a server", "err", err)
	return faultOfOurs
}

func (s *Service) checkForOperation(ctx context.Context, o store.Operation, server store.OperationServer) (json.RawMessage, error) {
	targets, err := s.store.RunTargets(ctx, o.Org, server.ServerID, "", "", maxRuns)
	switch {
	case err != nil:
		return nil, err
	case len(targets) == 0:
		return nil, refusalError("the server is gone, inactive, or has nothing that could be run")
	}
	run := byServer(targets, s.runAll(ctx, o.InitiatedBy, targets))[0]
	result, err := json.Marshal(run)
	if err != nil {
		return nil, fmt.Errorf("encode run: %w", err)
	}
	for _, r := range run.Results {
		if r.Error != "" {
			return result, refusalError("not run at " + r.Location + ": " + r.Error)
		}
	}
	return result, nil
}

// editForOperation changes what is declared of one server. To do it again changes nothing.
func (s *Service) editForOperation(ctx context.Context, o store.Operation, server store.OperationServer) error {
	ctx, cancel := context.WithTimeout(ctx, editTimeout)
	defer cancel()
	var err error
	for range editTries {
		if err = s.editOnce(ctx, o, server.ServerID); !errors.Is(err, store.ErrStale) {
			return err
		}
	}
	return err
}

func (s *Service) editOnce(ctx context.Context, o store.Operation, id uuid.UUID) error {
	current, err := s.store.DeclaredServers(ctx, o.Org, id.String())
	switch {
	case err != nil:
		return err
	case len(current) != 1:
		return store.ErrNotFound
	case current[0].Source != catalog.SourceAPI:
		return refusalError(fmt.Sprintf("the server is declared by the source %s: change it there", current[0].Source))
	}
	edited := current[0]
	if err := change(&edited, o); err != nil {
		return err
	}
	if faults := edited.Validate(""); len(faults) > 0 {
		return faults
	}
	plan, conflicts := catalog.Diff(catalog.SourceAPI, []catalog.Server{edited}, current)
	if len(conflicts) > 0 {
		return refusalError(conflicts[0].Error())
	}
	if plan.Empty() {
		return nil
	}
	return s.store.ApplyEdit(ctx, store.Edit{Plan: plan, Audit: []store.Audit{{
		Org: o.Org, Actor: o.InitiatedBy, ActorName: o.InitiatedName, Role: o.InitiatedRole, Action: "server.update",
		TargetKind: "server", Target: edited.Name, RequestID: o.RequestID,
		Before: map[string]any{"tags": current[0].Tags, "lifecycle": current[0].Lifecycle},
		After:  map[string]any{"tags": edited.Tags, "lifecycle": edited.Lifecycle, "operation": o.ID},
	}}})
}

// change does to a declaration what an operation asks for.
func change(server *catalog.Server, o store.Operation) error {
	var parameters struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(o.Parameters, &parameters); err != nil {
		return fmt.Errorf("read parameters: %w", err)
	}
	switch o.Type {
	case store.OperationTagAdd:
		server.Tags = slices.Concat(server.Tags, parameters.Tags)
		slices.Sort(server.Tags)
		server.Tags = slices.Compact(server.Tags)
	case store.OperationTagRemove:
		server.Tags = slices.DeleteFunc(slices.Clone(server.Tags), func(tag string) bool { return slices.Contains(parameters.Tags, tag) })
	case store.OperationMaintenanceOn:
		if server.Lifecycle == catalog.Inactive {
			return refusalError("the server is inactive: nothing looks at it")
		}
		server.Lifecycle = catalog.Maintenance
	case store.OperationMaintenanceOff:
		if server.Lifecycle == catalog.Maintenance {
			server.Lifecycle = catalog.Active
		}
	}
	return nil
}
