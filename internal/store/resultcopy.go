package store

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// resultColumns is the order of columns in COPY and in the arrays.
const resultColumns = `check_id, scheduled_at, started_at, missed_until, certificate_not_after,
    stream_epoch, stream_seq, latency_us, revision, status, http_status, missed, on_demand, connection_reused,
    org, location, instance, reason, message, details`

const (
	resultColumnCount = 20
	copyResultsSQL    = `COPY server_health_checks (` + resultColumns + `) FROM STDIN (FORMAT binary)`
)

func appendResult(b []byte, r *Result) []byte {
	b = binary.BigEndian.AppendUint16(b, resultColumnCount)
	b = appendUUID(b, r.CheckID)
	b = appendTime(b, r.ScheduledAt)
	b = appendTime(b, r.StartedAt)
	b = appendTime(b, r.MissedUntil)
	b = appendTime(b, r.CertificateNotAfter)
	b = appendInt64(b, r.StreamEpoch)
	b = appendInt64(b, r.StreamSeq)
	b = appendInt32(b, latencyUS(r.Latency))
	b = appendInt32(b, r.Revision)
	b = appendInt16(b, int16(r.Status))
	if r.HTTPStatus == 0 {
		b = appendNull(b)
	} else {
		b = appendInt16(b, r.HTTPStatus)
	}
	b = appendBool(b, r.Missed)
	b = appendBool(b, r.OnDemand)
	b = appendBool(b, r.ConnectionReused)
	b = appendText(b, r.Org)
	b = appendText(b, r.Location)
	b = appendText(b, r.Instance)
	b = appendText(b, r.Reason)
	b = appendText(b, r.Message)
	return appendJSON(b, r.Details)
}

// latencyUS is a latency in the column's unit, within its range.
func latencyUS(d time.Duration) int32 {
	return int32(min(max(d.Microseconds(), 0), 1<<31-1))
}

// resultArrays is a batch turned on its side, for unnest.
type resultArrays struct {
	checkID                                          []uuid.UUID
	scheduledAt, startedAt, missedUntil, certificate []*time.Time
	epoch, seq                                       []int64
	latency, revision                                []int32
	status                                           []int16
	httpStatus                                       []*int16
	missed, onDemand, reused                         []bool
	org, location, instance, reason, message         []string
	details                                          []*string
}

func newResultArrays(batch []batchRow) *resultArrays {
	c := &resultArrays{}
	for i := range batch {
		r := batch[i].Result
		c.checkID = append(c.checkID, r.CheckID)
		c.scheduledAt = append(c.scheduledAt, nullTime(r.ScheduledAt))
		c.startedAt = append(c.startedAt, nullTime(r.StartedAt))
		c.missedUntil = append(c.missedUntil, nullTime(r.MissedUntil))
		c.certificate = append(c.certificate, nullTime(r.CertificateNotAfter))
		c.epoch = append(c.epoch, r.StreamEpoch)
		c.seq = append(c.seq, r.StreamSeq)
		c.latency = append(c.latency, latencyUS(r.Latency))
		c.revision = append(c.revision, r.Revision)
		c.status = append(c.status, int16(r.Status))
		c.httpStatus = append(c.httpStatus, nullInt16(r.HTTPStatus))
		c.missed = append(c.missed, r.Missed)
		c.onDemand = append(c.onDemand, r.OnDemand)
		c.reused = append(c.reused, r.ConnectionReused)
		c.org = append(c.org, r.Org)
		c.location = append(c.location, r.Location)
		c.instance = append(c.instance, r.Instance)
		c.reason = append(c.reason, r.Reason)
		c.message = append(c.message, r.Message)
		c.details = append(c.details, nullJSON(r.Details))
	}
	return c
}
