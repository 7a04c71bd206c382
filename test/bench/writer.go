package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// measureWriter runs the benchmarks of the rooms that write, which reach what no other process can: a decoded batch. The
// writer and the COPY of the same rows, sorted and encoded beforehand, take turns within each.
func measureWriter(ctx context.Context, b *bench) ([]row, error) {
	batches, count := 40, max(b.Rounds, 1)
	if b.Quick {
		batches = 5
	}
	const goal = 0.85
	var rows []row
	for _, kind := range []struct{ name, benchmark string }{{"results", "BenchmarkWrite$"}, {"metrics", "BenchmarkWriteMetrics$"}} {
		found, err := b.benchmark(ctx, "./internal/store", kind.benchmark, batches, count)
		if err != nil {
			return rows, err
		}
		ratio := median(found["ratio"])
		rows = append(rows, row{
			What:  fmt.Sprintf("writer, %s: decoded batch of 5,000 to commit", kind.name),
			Limit: fmt.Sprintf("raw COPY %.0f rows/s", median(found["raw_rows/s"])), Picket: fmt.Sprintf("%.0f rows/s", median(found["rows/s"])),
			Ratio: ratio, Goal: fmt.Sprintf("≥ %.2f", goal),
		}.reached(ratio >= goal))
	}
	found, err := b.benchmark(ctx, "./services/writer", "BenchmarkStreamToRow$", 1, count)
	if err != nil {
		return rows, err
	}
	return append(rows, row{What: "writer: from the stream to committed rows", Picket: fmt.Sprintf("%.0f rows/s", median(found["rows/s"]))}), nil
}

var figurePattern = regexp.MustCompile(`([0-9.e+]+) ([a-z_]+/s|ratio)\b`)

// benchmark runs one of Go's benchmarks n times over, count times, and returns what it reports by unit.
func (b *bench) benchmark(ctx context.Context, pkg, name string, n, count int) (map[string][]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", name, "-benchtime", strconv.Itoa(n)+"x",
		"-count", strconv.Itoa(count), "-timeout", "20m", pkg)
	cmd.Env = append(os.Environ(), "PICKET_TEST_DATABASE_URL="+b.Database)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("benchmark %s of %s: %w\n%s", name, pkg, err, bytes.TrimSpace(out))
	}
	found := map[string][]float64{}
	for _, match := range figurePattern.FindAllSubmatch(out, -1) {
		value, err := strconv.ParseFloat(string(match[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("benchmark %s of %s: %w", name, pkg, err)
		}
		found[string(match[2])] = append(found[string(match[2])], value)
	}
	if len(found["rows/s"]) == 0 {
		return nil, errors.New("benchmark " + name + " of " + pkg + " said nothing:\n" + string(out))
	}
	return found, nil
}
