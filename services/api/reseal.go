package api

import (
	"context"
	"errors"
	"time"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

const (
	// resealsAtOnce bounds what one round seals anew, so that a large fleet does not hear of all its servers at once.
	resealsAtOnce = 500
	resealPage    = 100
	// resealActor is who the record says did it.
	resealActor = "key-rotation"
)

// reseal seals tokens of servers with the current key that were sealed with another one, some at a time, so that the key
// before can be taken away. Tokens stay what they are: no server hears of it, probers get the new form. One that no key
// opens stays as it is; that is said when it changes how many there are.
func (s *Service) reseal(ctx context.Context) {
	if s.keyring == nil {
		return
	}
	done, unreadable := 0, 0
	var after catalog.Key
	for done < resealsAtOnce {
		stale, err := s.store.StaleSeals(ctx, s.keyring.Prefix(), after, resealPage)
		if err != nil {
			s.log.DebugContext(ctx, "tokens not sealed anew, trying again", "err", err)
			return
		}
		for _, key := range stale {
			after = key
			switch err := s.resealServer(ctx, key); {
			case err == nil:
				done++
			case errors.Is(err, catalog.ErrSeal):
				unreadable++
			case errors.Is(err, store.ErrStale), errors.Is(err, store.ErrNotFound):
				// Somebody else changed it, or did this very thing; the next round looks again.
			default:
				s.log.DebugContext(ctx, "tokens not sealed anew, trying again", "err", err)
				return
			}
		}
		if len(stale) < resealPage {
			break
		}
	}
	if done > 0 {
		s.log.InfoContext(ctx, "tokens sealed with the current key", "servers", done)
	}
	changed := unreadable != s.unreadable
	s.unreadable = unreadable
	if changed && unreadable > 0 {
		s.log.WarnContext(ctx, "tokens that no key opens: register them anew, or set PICKET_SECRET_KEY_PREVIOUS", "servers", unreadable)
	}
}

func (s *Service) resealServer(ctx context.Context, key catalog.Key) error {
	found, err := s.store.DeclaredServers(ctx, key.Org, key.Name)
	if err != nil {
		return err
	}
	var have *catalog.Server
	for i := range found {
		if found[i].Name == key.Name {
			have = &found[i] // and not one whose id has the form of this name
		}
	}
	if have == nil || have.Credential == nil {
		return store.ErrNotFound
	}
	want := *have
	if want.Credential, err = s.keyring.Reseal(key, have.Credential, time.Now()); err != nil {
		return err
	}
	plan, _ := catalog.Diff(have.Source, []catalog.Server{want}, []catalog.Server{*have})
	if plan.Empty() {
		return nil
	}
	return s.store.ApplyEdit(ctx, store.Edit{Plan: plan, Audit: []store.Audit{{
		Org: key.Org, Actor: resealActor, Role: store.Admin, Action: "server.token.reseal", TargetKind: "server", Target: key.Name,
	}}})
}
