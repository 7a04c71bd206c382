// Package metric is what a figure of a server is: the names that everybody knows ([WellKnown]), and the language of rules
// that make figures of the series of a Prometheus exposition ([Selector], [Mapping]), with the mappings that are built in.
//
// The room is pure: no I/O, no clock. What enters are rules of the catalog, series that somebody else has parsed, and
// the time between two collections; what leaves are numbers by name, and errors about rules.
//
// # Rules
//
// A rule selects series, makes one number of each, and one figure of all:
//
//  1. series selects by name and labels. Nothing selected: no figure, never a zero.
//  2. rate takes of each the increase per second since the collection before. A counter that has become less was
//     reset, and its value is the increase. Without a collection before there is no figure yet.
//  3. divide_by divides each by the sum of those series of the divisor that agree with it in every label that both
//     have. With rate a divisor that is a counter is a rate as well; a gauge is taken as it is. What has no divisor, or
//     one of zero, is left out.
//  4. aggregate makes one of what is left: sum (also when nothing is said), max, min, avg or count.
//  5. The figure is scale × value + offset. One that is no finite number is left out.
package metric
