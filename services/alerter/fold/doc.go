// Package fold decides about alerts: it is the function from the event stream to alert transitions.
//
// May enter: events of the stream PICKET_EVENTS, in stream order. May leave: transitions, gaps, and the state as bytes.
// Nothing else: no I/O, no clock, no goroutine, no order of a map. The alerter runs it live, after a crash and over history,
// and gets the same transitions with the same identities every time. A [State] is not safe for concurrent use.
//
// # Time
//
// There are two kinds of time. Streaks and durations run on scheduled_at, the instant a check was due, so that a result that
// arrives late means what it meant when it was made. Absence runs on stream time, the time at which the server stored an
// event, and only a clock tick lets it decide: what arrives between two ticks may come in any order. Two events more than
// [BlindAfter] apart mean that nobody was looking: one gap is recorded, and that span does not count as silence of anyone.
//
// # What a result does
//
// The identity of a result is (check, location, scheduled_at). A result at or before the last one folded of its check and
// location is not folded, so that doubles and late comers change nothing; `unknown` and on-demand results move no streak
// either, they only prove that the location is alive. A result is skipped when its check or location is not in the catalog
// as the fold knows it, or when its scheduled_at lies outside stream time − 25 h … + 60 s.
//
// # When one location fails
//
// Bad statuses are ordered critical > unreachable > degraded. The streak of a status counts the results in a row that were
// at least that bad; its rule is met by a number of results (critical_after, unreachable_after, degraded_after) and, for
// unreachable, by a duration between the first and the last of them besides (unreachable_for).
//
// A bad result asks the rule of its own status and those of all lesser ones: critical and unreachable in turn meet the rule
// of unreachable, and two bad ticks of any kind are two. One exception: an unreachable result does not ask the rule of
// degraded while unreachable has a duration, else that duration would mean nothing. When a rule is met by n results, the
// location fails with the worst status that all of the last n reached. While it fails, a worse rule met makes it worse at
// once; close_after results in a row below its level make it the worst status among those, and close_after healthy ones
// make it good.
//
// # When a check fails
//
// A location is fresh when stream time is at most three intervals and one timeout past the scheduled_at of its last folded
// result. Only fresh locations can bring an alert forth or make it worse: quorum of them (default: more than half of the
// check's locations) must fail. Locations that are not fresh keep their last verdict where an alert would get better:
// having stopped to look is no recovery. Results decide, and nothing else: a change of rules, quorum or lifecycle takes
// effect with the next result.
//
// # The alert
//
//	pending       quorum fresh locations had a bad last result; left out when the same result opens
//	opened        they fail, by the rules above
//	updated       the worst status changed: one incident, one alert
//	acknowledged  a person said so; everything after it is as for an open one
//	closed        by a person: all results of the check but the last of each location are forgotten, so that an alert
//	              comes again by the rules and not with the very next result
//	closed        cleared (pending only: the bad results ended), recovered, or removed (its check, server or location
//	              left the catalog, or the server became inactive)
//
// A server in maintenance brings no alert forth and makes none worse or different; an alert from before stays until it
// recovers. While alerting is disabled everything goes on but transitions.
//
// Besides checks there are conditions of the platform: a location that has due checks and was silent for
// max(30 s, 2 × its shortest interval), and events dropped from the stream before they were read.
package fold
