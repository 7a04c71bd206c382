package api

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/picketd/picket/internal/service"
)

// attendant is what the service has for the things that it does besides answering: it listens to workers, carries out
// operations and follows the streams for those who look on.
type attendant struct {
	// owner names this life of this process to the other replicas.
	owner   string
	workers *workerBook
	// runs bounds what is asked of tickers at a time.
	runs chan struct{}
	// operations is told that there is something to do.
	operations chan struct{}
	live       live
}

func newAttendant(kit *service.Kit) attendant {
	return attendant{
		owner: kit.Instance + "/" + rand.Text(), workers: newWorkerBook(), runs: make(chan struct{}, runsAtOnce),
		operations: make(chan struct{}, operationsAtOnce), live: newLive(),
	}
}

// attend does all that until ctx ends.
func (s *Service) attend(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { s.listenToWorkers(ctx) })
	group.Go(func() { s.keepTotals(ctx) })
	group.Go(func() { s.operate(ctx) })
	for _, f := range s.live.feeds {
		group.Go(func() { f.run(ctx, s) })
	}
	group.Wait()
}
