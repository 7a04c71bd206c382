package service

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// rendering makes one static message with its fields into a sentence for people.
type rendering struct {
	// text has {field} where a field's value belongs. Fields that it names are not printed again behind it.
	text string
}

// renderings are the lines that people knew from the source system, symbols included. A field that is missing leaves
// the line as it was logged.
func renderings() map[string]rendering {
	return map[string]rendering{
		"starting health checks": {"🏥 Starting health checks for {servers} servers"},
		"health checks complete": {"✅ Health checks complete: {servers} servers checked in {duration_seconds}s (✓{healthy} 🔶{degraded} ⚠️{critical} ❌{unreachable})"},
		"fleet health alert":     {"⚠️ Fleet health alert: {critical} critical, {unreachable} unreachable servers"},

		"starting metrics collection": {"📊 Starting metrics collection for {servers} servers"},
		"metrics collection complete": {"📊 Metrics collection complete: {servers} servers in {duration_seconds}s (✓{successful} ❌{failed})"},
		"failed to collect metrics":   {"⚠️ Failed to collect metrics from: {servers}"},
		"partition missing":           {"⚠️ PARTITION MISSING: {partition} does not exist!"},
	}
}

// renderer hands records on to a text handler as people are to read them.
type renderer struct {
	slog.Handler
	lines map[string]rendering
}

// Handle implements slog.Handler.
func (r renderer) Handle(ctx context.Context, record slog.Record) error {
	line, known := r.lines[record.Message]
	if !known {
		return r.Handler.Handle(ctx, record)
	}
	fields := map[string]string{}
	record.Attrs(func(a slog.Attr) bool {
		fields[a.Key] = forPeople(a.Value)
		return true
	})
	text, used, complete := line.fill(fields)
	if !complete {
		return r.Handler.Handle(ctx, record)
	}
	shown := slog.NewRecord(record.Time, record.Level, text, record.PC)
	record.Attrs(func(a slog.Attr) bool {
		if !used[a.Key] {
			shown.AddAttrs(a)
		}
		return true
	})
	return r.Handler.Handle(ctx, shown)
}

// WithAttrs implements slog.Handler.
func (r renderer) WithAttrs(attrs []slog.Attr) slog.Handler {
	return renderer{r.Handler.WithAttrs(attrs), r.lines}
}

// WithGroup implements slog.Handler. Fields in a group are not those of a rendering.
func (r renderer) WithGroup(name string) slog.Handler {
	if name == "" {
		return r
	}
	return r.Handler.WithGroup(name)
}

func (l rendering) fill(fields map[string]string) (text string, used map[string]bool, complete bool) {
	var b strings.Builder
	used = map[string]bool{}
	rest := l.text
	for {
		before, after, found := strings.Cut(rest, "{")
		b.WriteString(before)
		if !found {
			return b.String(), used, true
		}
		name, tail, _ := strings.Cut(after, "}")
		value, ok := fields[name]
		if !ok {
			return "", nil, false
		}
		b.WriteString(value)
		used[name] = true
		rest = tail
	}
}

// forPeople writes a value as it reads best in a sentence.
func forPeople(v slog.Value) string {
	switch v = v.Resolve(); v.Kind() {
	case slog.KindFloat64:
		return strconv.FormatFloat(v.Float64(), 'f', 2, 64)
	case slog.KindDuration:
		return v.Duration().Round(time.Millisecond).String()
	case slog.KindAny:
		if names, ok := v.Any().([]string); ok {
			return strings.Join(names, ", ")
		}
		return fmt.Sprint(v.Any())
	default:
		return v.String()
	}
}
