package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"regexp"
	"sync"
)

// output keeps what a program prints.
type output struct {
	done chan struct{}

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed with every line
}

func newOutput(in io.Reader) *output {
	o := &output{done: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(o.done)
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			o.mu.Lock()
			o.lines = append(o.lines, scanner.Text())
			close(o.more)
			o.more = make(chan struct{})
			o.mu.Unlock()
		}
	}()
	return o
}

func (o *output) finish() { <-o.done }

var anything = regexp.MustCompile(`.`)

func (o *output) first(ctx context.Context) error {
	_, err := o.await(ctx, anything)
	return err
}

// await returns the submatches of the first line that matches.
func (o *output) await(ctx context.Context, pattern *regexp.Regexp) ([]string, error) {
	for seen := 0; ; {
		o.mu.Lock()
		fresh, more := o.lines[seen:], o.more
		o.mu.Unlock()
		for _, line := range fresh {
			if match := pattern.FindStringSubmatch(line); match != nil {
				return match, nil
			}
		}
		seen += len(fresh)
		select {
		case <-more:
		case <-o.done:
			return nil, errors.New("it ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
