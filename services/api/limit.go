package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxLimited bounds how many callers are told apart at a time.
	maxLimited = 10_000
	// limitedFor is how long a caller that is silent is remembered.
	limitedFor = 5 * time.Minute
)

// limits are how often callers may ask.
type limits struct {
	// requests are by token, failures by address.
	requests, failures *limiters
}

func newLimits(config Config) *limits {
	return &limits{
		requests: newLimiters(rate.Limit(config.RateLimit), max(1, int(2*config.RateLimit))),
		failures: newLimiters(rate.Limit(float64(config.AuthFailures)/60), config.AuthFailures),
	}
}

// limiters are token buckets, one for each key. It is safe for concurrent use.
type limiters struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu   sync.Mutex
	keys map[string]*bucket
}

type bucket struct {
	limiter *rate.Limiter
	last    time.Time
}

func newLimiters(limit rate.Limit, burst int) *limiters {
	return &limiters{limit: limit, burst: burst, now: time.Now, keys: map[string]*bucket{}}
}

// take has key spend one; wait is how long until there is one again when there is none.
func (l *limiters) take(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b := l.of(key, now)
	if b.limiter.AllowN(now, 1) {
		return 0
	}
	return l.until(b, now)
}

// spent says how long until key has one again, without taking it; 0 when it has one.
func (l *limiters) spent(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, there := l.keys[key]
	if !there {
		return 0
	}
	return l.until(b, l.now())
}

func (l *limiters) until(b *bucket, now time.Time) time.Duration {
	missing := 1 - b.limiter.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Duration(missing/float64(l.limit)*float64(time.Second)), time.Millisecond)
}

func (l *limiters) of(key string, now time.Time) *bucket {
	b, there := l.keys[key]
	if !there {
		l.makeRoom(now)
		b = &bucket{limiter: rate.NewLimiter(l.limit, l.burst)}
		l.keys[key] = b
	}
	b.last = now
	return b
}

// makeRoom forgets who was silent for long, and whoever was silent longest when there is no room otherwise.
func (l *limiters) makeRoom(now time.Time) {
	if len(l.keys) < maxLimited {
		return
	}
	oldest, at := "", now
	for key, b := range l.keys {
		switch {
		case now.Sub(b.last) >= limitedFor:
			delete(l.keys, key)
		case !b.last.After(at):
			oldest, at = key, b.last
		}
	}
	if len(l.keys) >= maxLimited {
		delete(l.keys, oldest)
	}
}
