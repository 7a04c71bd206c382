package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// print writes the report in the form asked for.
func (r report) print(out io.Writer, o options) error {
	if o.JSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	var b strings.Builder
	if o.Markdown {
		r.markdown(&b)
	} else {
		r.text(&b)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

var columns = []string{"what", "limit, same run", "Picket", "ratio", "goal", "reached"}

func (r row) cells() []string {
	ratio, reached := "", "–"
	if r.Ratio > 0 {
		ratio = strconv.FormatFloat(r.Ratio, 'f', 2, 64)
	}
	if r.Reached != nil {
		reached = map[bool]string{true: "yes", false: "NO"}[*r.Reached]
	}
	return []string{r.What, r.Limit, r.Picket, ratio, r.Goal, reached}
}

func (r report) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "%s; the run took %s.\n", r.Machine, r.Took.Round(time.Second))
	if warning := r.Machine.warning(); warning != "" {
		fmt.Fprintf(b, "\n**%s**\n", warning)
	}
	fmt.Fprintf(b, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, line := range r.Rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line.cells(), " | "))
	}
	r.remarks(b, "\n**%s**\n\n", "- %s\n")
}

func (r report) text(b *strings.Builder) {
	table := [][]string{columns}
	for _, line := range r.Rows {
		table = append(table, line.cells())
	}
	widths := make([]int, len(columns))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(b, "\n%s\n", r.Machine)
	if warning := r.Machine.warning(); warning != "" {
		fmt.Fprintf(b, "%s\n", warning)
	}
	b.WriteByte('\n')
	for i, cells := range table {
		var line strings.Builder
		for j, cell := range cells {
			line.WriteString(cell + strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+2))
		}
		fmt.Fprintln(b, strings.TrimRight(line.String(), " "))
		if i == 0 {
			total := 2 * (len(widths) - 1)
			for _, w := range widths {
				total += w
			}
			fmt.Fprintln(b, strings.Repeat("-", total))
		}
	}
	r.remarks(b, "\n%s\n", "  %s\n")
	fmt.Fprintf(b, "\ntook %s\n", r.Took.Round(time.Second))
}

// remarks are the lines below the table, by measurement.
func (r report) remarks(b *strings.Builder, heading, line string) {
	for _, name := range r.order {
		notes := r.Notes[name]
		if why, failed := r.Failed[name]; failed {
			notes = append(slices.Clip(notes), "FAILED: "+why)
		}
		if len(notes) == 0 {
			continue
		}
		fmt.Fprintf(b, heading, name)
		for _, note := range notes {
			fmt.Fprintf(b, line, note)
		}
	}
}
