package writer

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// decodeMetric reads a batch of metrics and holds it to the contract.
func decodeMetric(msg *bus.Msg, epoch int64) (metric store.Metric, isMetric bool, err error) {
	subject, mine, err := parseSubject(msg, bus.FamilyMetric)
	if err != nil || !mine {
		return store.Metric{}, false, err
	}
	batch := &picketv1.MetricBatch{}
	if err := msg.Decode(batch); err != nil {
		return store.Metric{}, false, err
	}
	if err := bus.CheckMetrics(subject, batch, msg.Time); err != nil {
		return store.Metric{}, false, err
	}
	metric, err = toMetric(batch)
	metric.StreamEpoch, metric.StreamSeq = epoch, int64(msg.Sequence)
	return metric, err == nil, err
}

// toMetric is what is stored of a batch that keeps the contract.
func toMetric(batch *picketv1.MetricBatch) (store.Metric, error) {
	metric := store.Metric{
		Location: batch.GetLocation(), ScheduledAt: timeOf(batch.GetScheduledAt()), OnDemand: batch.GetOnDemand(),
		Values: batch.GetValues(), Org: batch.GetOrg(),
	}
	for _, sample := range batch.GetSamples() {
		metric.Samples = append(metric.Samples, store.Sample{
			Org: batch.GetOrg(), Name: sample.GetName(), Service: sample.GetService(), Tags: store.Tags(sample.GetTags()),
			Time: metric.ScheduledAt, Value: sample.GetValue(),
		})
	}
	if batch.GetServer() == bus.PlatformServer {
		return metric, nil
	}
	var err error
	if metric.CheckID, err = uuid.Parse(batch.GetCheckId()); err == nil {
		metric.ServerID, err = uuid.Parse(batch.GetServerId())
	}
	if err != nil {
		return store.Metric{}, fmt.Errorf("%w: %w", bus.ErrContract, err)
	}
	if batch.GetExtra() != "" {
		metric.Extra = []byte(batch.GetExtra())
	}
	return metric, nil
}
