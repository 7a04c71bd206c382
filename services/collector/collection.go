package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/metric"
	"github.com/picketd/picket/internal/ticker"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/collector/scrape"
)

const openMetrics = "application/openmetrics-text"

// collection is one check of the kind metrics, compiled. It is safe for concurrent use.
type collection struct {
	service *Service
	target  *target
	format  string
	mapping *metric.Mapping
	// bare says that the check names neither mapping nor rules.
	bare     bool
	counters metric.Counters
}

// build compiles a check.
func (s *Service) build(scheduled *picketv1.ScheduledCheck) (ticker.Runner, error) {
	spec := scheduled.GetCheck().GetMetrics()
	if spec == nil {
		return nil, &health.FieldError{Field: "metrics", Err: errors.New("is missing")}
	}
	headers, err := s.secrets.Headers(spec.GetHeaders())
	if err != nil {
		return nil, err
	}
	c := &collection{service: s, format: spec.GetFormat(), bare: spec.GetMapping() == "" && len(spec.GetRules()) == 0}
	bearer, err := s.secrets.Bearer(scheduled)
	if err != nil && spec.GetServerToken() {
		return ticker.Unable(health.ReasonCredential, err.Error()), nil
	}
	if !spec.GetServerToken() {
		bearer.Token, bearer.Previous = "", ""
	}
	if c.mapping, err = metric.Compile(spec.GetMapping(), spec.GetRules()); err != nil {
		return nil, err
	}
	if c.target, err = s.fetcher.target(spec, headers, bearer); err != nil {
		return nil, err
	}
	return c, nil
}

// mostLooks bounds how often somebody who waits is collected for: one look between two others may come too soon after
// a tick of the schedule.
const mostLooks = 3

// needsTwo is what is said of an answer to somebody who waits when there was no time for the second.
const needsTwo = "what is a rate needs two collections a second apart, and there was no time for the second"

// Run implements ticker.Runner: it collects once. What could be read is published also when not all could. Who asks for
// a collection may ask a process that has not collected from the server before, or has just now: it collects twice then,
// so that the rates are there.
func (c *collection) Run(ctx context.Context) ticker.Outcome {
	asked := c.service.mono()
	outcome, waiting := c.collect(ctx, asked)
	if !waiting || !ticker.OnDemand(ctx) {
		return outcome
	}
	for range mostLooks {
		pause := metric.LeastBetween - (c.service.mono() - asked)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause+metric.LeastBetween/2 || !sleep(ctx, pause) {
			break
		}
		asked = c.service.mono()
		if outcome, waiting = c.collect(ctx, asked); !waiting {
			return outcome
		}
	}
	outcome.Result.Message = needsTwo
	return outcome
}

// collect collects once. waiting says that some figures need a second collection.
func (c *collection) collect(ctx context.Context, asked time.Duration) (outcome ticker.Outcome, waiting bool) {
	start := time.Now()
	answer, release, err := c.service.fetcher.fetch(ctx, c.target)
	defer release()
	c.service.metrics.bytes.Add(float64(answer.size))
	var found figures
	verdict := c.judge(ctx, answer, err)
	if verdict.Status == picketv1.Status_STATUS_HEALTHY {
		found, verdict = c.read(ctx, answer, asked)
	}
	outcome.Result = &picketv1.ProbeResult{
		Kind: catalog.KindMetrics, LatencyUs: time.Since(start).Microseconds(), HttpStatus: int32(answer.code),
		Status: verdict.Status, Reason: verdict.Reason, Message: verdict.Message,
	}
	if len(found.values)+len(found.extra) > 0 {
		c.service.metrics.figures.Add(float64(len(found.values)))
		batch := &picketv1.MetricBatch{Values: found.values, Extra: string(found.extra)}
		outcome.Messages = []bus.Message{{Payload: batch}}
	}
	return outcome, found.waiting && verdict.Status == picketv1.Status_STATUS_HEALTHY
}

// judge is the verdict on an answer before it is read.
func (c *collection) judge(ctx context.Context, a answer, err error) health.Outcome {
	switch {
	case errors.Is(err, errTooLarge):
		return health.CollectionFault(health.ReasonTooLarge, fmt.Sprintf("the answer is longer than %d bytes", c.service.cfg.BodyLimit))
	case err != nil && ctx.Err() != nil && !errors.Is(err, health.ErrOwnFault):
		return health.CollectionError(ctx.Err())
	case err != nil:
		return health.CollectionError(err)
	default:
		return health.CollectionCode(a.code)
	}
}

// figures are what one answer held.
type figures struct {
	values map[string]float64
	extra  []byte
	// waiting says that there are more, which need a second collection.
	waiting bool
}

// read makes figures of an answer. Only as many are read at a time as there are processors: what reading takes besides
// the answer itself is bounded by that.
func (c *collection) read(ctx context.Context, a answer, asked time.Duration) (figures, health.Outcome) {
	select {
	case c.service.readers <- struct{}{}:
		defer func() { <-c.service.readers }()
	case <-ctx.Done():
		return figures{}, health.CollectionError(fmt.Errorf("%w: no time left to read the answer", health.ErrOwnFault))
	}
	var found figures
	var faults []string
	var err error
	if c.isJSON(a) {
		var reading scrape.Reading
		reading, err = scrape.JSON(a.body)
		found, faults = figures{values: reading.Values, extra: reading.Extra}, reading.Faults
	} else {
		found.values, faults, found.waiting, err = c.readText(a, asked)
	}
	switch {
	case errors.Is(err, scrape.ErrTooManySeries):
		return figures{}, health.CollectionFault(health.ReasonTooManySeries, err.Error())
	case err != nil:
		return figures{}, health.CollectionFault(health.ReasonBadMetrics, "the answer is "+err.Error())
	case len(faults) > 0:
		return found, health.CollectionFault(health.ReasonBadMetrics, strings.Join(faults, "; "))
	case len(found.values)+len(found.extra) == 0 && !found.waiting:
		return found, health.CollectionFault(health.ReasonNoFigures, c.nothing())
	}
	return found, health.Outcome{Status: picketv1.Status_STATUS_HEALTHY}
}

func (c *collection) nothing() string {
	switch {
	case c.format == catalog.MetricsJSON:
		return "the answer holds no figure"
	case c.bare:
		return "no mapping knows what the answer shows: name a mapping or rules"
	default:
		return "no rule made a figure of the answer"
	}
}

// readText makes figures of an exposition. waiting says that some need a second collection.
func (c *collection) readText(a answer, asked time.Duration) (values map[string]float64, faults []string, waiting bool, err error) {
	series, err := scrape.Text(a.body, scrape.TextOptions{
		OpenMetrics: a.media == openMetrics, Needs: c.mapping.Needs, MaxSeries: c.service.cfg.SeriesLimit,
	})
	if err != nil {
		return nil, nil, false, err
	}
	made := c.mapping.Figures(series, &c.counters, asked)
	for _, name := range slices.Sorted(maps.Keys(made.Values)) {
		value := made.Values[name]
		if unit, known := metric.WellKnown(name); known && !unit.Fits(value) {
			faults = append(faults, fmt.Sprintf("the rules make %s %v, which it cannot be", name, value))
			delete(made.Values, name)
		}
	}
	c.service.metrics.empty.Add(float64(len(made.Empty)))
	return made.Values, faults, len(made.Waiting) > 0, nil
}

// isJSON goes by what the check says, then by what the answer says of itself, then by how it begins.
func (c *collection) isJSON(a answer) bool {
	switch {
	case c.format != "":
		return c.format == catalog.MetricsJSON
	case a.media == "application/json" || strings.HasSuffix(a.media, "+json"):
		return true
	case a.media == openMetrics || a.media == "text/plain" && a.declared:
		return false
	default:
		return bytes.HasPrefix(bytes.TrimLeft(a.body, " \t\r\n"), []byte("{"))
	}
}
