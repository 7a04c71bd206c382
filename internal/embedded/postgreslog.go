package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

const (
	maxLogBytes = 4 << 20 // then the log is moved to .1, whose predecessor goes: 8 MiB at most
	maxLogLine  = 64 << 10
	tailLines   = 12
)

// boundedLog keeps what a server writes in one file and its predecessor, and the last lines in memory for errors.
type boundedLog struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	tail []string
}

func openBoundedLog(path string) (*boundedLog, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &boundedLog{path: path, file: file, size: info.Size()}, nil
}

// drain copies lines until the writers have closed their end. It never stops early: a server whose pipe is full would
// stand still. So a file that cannot be written (disk full) costs lines, nothing else.
func (l *boundedLog) drain(r io.Reader) {
	reader := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := reader.ReadSlice('\n')
		if len(line) > 0 {
			l.add(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (l *boundedLog) add(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(line)) > maxLogBytes {
		l.rotate()
	}
	n, _ := l.file.Write(line)
	l.size += int64(n)
	if len(l.tail) == tailLines {
		l.tail = l.tail[:copy(l.tail, l.tail[1:])]
	}
	l.tail = append(l.tail, strings.TrimRight(string(line), "\r\n"))
}

func (l *boundedLog) rotate() {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		// No second file to be had: the bound matters more than old lines.
		if l.file.Truncate(0) == nil {
			l.size = 0
		}
		return
	}
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	l.file.Close()
	l.file, l.size = file, 0
}

// lastLines are the newest lines, oldest first.
func (l *boundedLog) lastLines() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.tail, "\n")
}

// forget drops the lines in memory, so that a later error shows none of an earlier attempt.
func (l *boundedLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = nil
}

func (l *boundedLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
