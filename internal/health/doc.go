// Package health says what an answer, or the lack of one, means: it maps HTTP
// responses, TCP dialogues and errors to a status with a machine-readable
// reason, checks declared expectations, and ranks statuses.
//
// The room is pure: no I/O, no clock, no state between calls. What enters are
// bytes, headers, durations, instants and error values that somebody else
// obtained; what leaves are verdicts. Everything here may be used from several
// goroutines at once.
//
// # How an HTTP answer becomes a status
//
// The worst of what follows decides; between equals the first named does.
//
//  1. The code. With expect_status declared: a match is good, whatever the code
//     and whatever the body says of itself; otherwise assert_status, critical
//     for 5xx, degraded for the rest. Without: 2xx is healthy, 5xx critical,
//     all others degraded, with the reason http_<code>.
//  2. The body, when it is JSON and expect_status is not declared (see below).
//  3. expect_headers, expect_body, expect_json: critical (assert_header,
//     assert_body, assert_json). Whoever declares what an answer must hold
//     means that anything else is not the service.
//  4. max_latency_ms and min_certificate_days: degraded (latency, certificate).
//     The service works, but not as wished or not for long.
//
// # Health bodies
//
// Four formats are understood, in any mixture: {status, service, counters};
// {database: {status}, redis: {status}, services: {healthy}}; health+json of
// the IETF draft (status pass, warn or fail; checks); Spring Boot and
// MicroProfile (status UP, DOWN or OUT_OF_SERVICE; components or checks).
//
//   - Good words, in any case: ok healthy up pass true, and JSON true.
//   - The body's own status: warn or degraded is degraded; down, fail, critical
//     and their kin are critical; a word that is not known says nothing.
//   - database and redis, present and not good, are critical. Within checks and
//     components, where formats grade, their warn is degraded.
//   - Another component that is not good makes the whole degraded.
//   - A key that is missing, or null, means nothing.
//   - A body declared as JSON that cannot be read is degraded: bad_body. A body
//     cut at the reader's limit is not unreadable; what was read of it counts.
//   - No JSON: the code decides.
package health
