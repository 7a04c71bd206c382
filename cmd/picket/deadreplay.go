package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/bus"
)

type deadReplayCommand struct {
	deadChoice
	Force bool `help:"Also those that would be dead again at once, or were replayed before."`
}

func (deadReplayCommand) Help() string {
	return `Mend the cause first. A message goes back as it was, onto the subject and into the stream that it came from; results
and figures are known by their check, location and tick, so that one that is there already stays what it is. The letter
is marked, and --all leaves out what is marked. What would be dead again at once is refused: unreadable, or against the
contract, such as a result of more than 25 hours ago.

Examples:
  picket dead replay 17
  picket dead replay --all --reason row_refused --dry-run
  picket dead replay --all --consumer writer --since 2h --yes`
}

// errRefused says that some of the letters were not replayed.
var errRefused = errors.New("not replayed, for the reasons above")

// verdict says what keeps a letter from being replayed; nil: nothing.
func (c *deadReplayCommand) verdict(l *bus.Letter) error {
	if err := l.Replayable(); err != nil || c.Force {
		return err
	}
	if len(l.Replays) > 0 {
		last := lastReplay(l)
		return fmt.Errorf("replayed already, by %s at %s (--force does it again)", last.GetActor(), last.GetAt().AsTime().Local().Format(time.DateTime))
	}
	if err := l.StillDead(time.Now()); err != nil {
		return fmt.Errorf("it would be dead again at once (--force does it all the same): %w", err)
	}
	return nil
}

// Run says what is to be done, asks, and does it.
func (c *deadReplayCommand) Run(ctx context.Context, std console) error {
	conn, err := c.connect(ctx, std, "picket dead")
	if err != nil {
		return err
	}
	defer conn.Close()
	filter := c.letters()
	filter.Unreplayed = filter.Unreplayed || !filter.Replayed // all is what is still to be done
	good, refused := 0, 0
	err = c.walk(ctx, conn, filter, func(l *bus.Letter) error {
		filter.To = l.Sequence // what comes meanwhile is for the next time
		if err := c.verdict(l); err != nil {
			refused++
			_, err = fmt.Fprintf(std.err, "%d: %s\n", l.Sequence, printable(err.Error()))
			return err
		}
		good++
		if !c.DryRun {
			return nil
		}
		_, err := fmt.Fprintf(std.out, "%d would be replayed onto %s\n", l.Sequence, printable(l.Content.GetSubject()))
		return err
	})
	if err != nil {
		return deadError(err)
	}
	if good > 0 && !c.DryRun {
		if err := c.confirm(std, fmt.Sprintf("Replay %s?", counted(good))); err != nil {
			return err
		}
		if err := c.replay(ctx, std, conn, filter, good); err != nil {
			return deadError(err)
		}
	}
	if refused > 0 {
		return fmt.Errorf("%s %w", counted(refused), errRefused)
	}
	if good == 0 {
		_, err = fmt.Fprintln(std.err, "Nothing to replay.")
	}
	return err
}

func (c *deadReplayCommand) replay(ctx context.Context, std console, conn *bus.Conn, filter bus.LetterFilter, of int) error {
	shown := newProgress(std.err, "replayed")
	done, who := 0, actor()
	err := c.walk(ctx, conn, filter, func(l *bus.Letter) error {
		if c.verdict(l) != nil {
			return nil // said before, or somebody else was faster
		}
		if _, err := conn.ReplayLetter(ctx, l, who); err != nil {
			return err
		}
		done++
		shown.at(done, of)
		return nil
	})
	shown.end()
	_, written := fmt.Fprintf(std.out, "replayed %s\n", counted(done))
	return errors.Join(err, written)
}

type deadRmCommand struct {
	deadChoice
}

func (deadRmCommand) Help() string {
	return `What is removed cannot be looked at or replayed any more. Dead letters go by themselves after 30 days.

Examples:
  picket dead rm 17 18
  picket dead rm --all --state replayed
  picket dead rm --all --reason unreadable --dry-run`
}

// Run asks, and removes.
func (c *deadRmCommand) Run(ctx context.Context, std console) error {
	conn, err := c.connect(ctx, std, "picket dead")
	if err != nil {
		return err
	}
	defer conn.Close()
	filter := c.letters()
	count := 0
	err = c.walk(ctx, conn, filter, func(l *bus.Letter) error {
		filter.To = l.Sequence
		count++
		if !c.DryRun {
			return nil
		}
		_, err := fmt.Fprintf(std.out, "%d would be removed: %s\n", l.Sequence, printable(l.Content.GetSubject()))
		return err
	})
	switch {
	case err != nil:
		return deadError(err)
	case c.DryRun:
		return nil
	case count == 0:
		_, err := fmt.Fprintln(std.err, "Nothing to remove.")
		return err
	}
	if err := c.confirm(std, fmt.Sprintf("Remove %s for good?", counted(count))); err != nil {
		return err
	}
	shown := newProgress(std.err, "removed")
	done := 0
	err = c.walk(ctx, conn, filter, func(l *bus.Letter) error {
		if err := conn.RemoveLetter(ctx, l.Sequence); err != nil {
			return err
		}
		done++
		shown.at(done, count)
		return nil
	})
	shown.end()
	_, written := fmt.Fprintf(std.out, "removed %s\n", counted(done))
	return deadError(errors.Join(err, written))
}
