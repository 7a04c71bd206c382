package service

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
	"testing"
)

// Not parallel: the standard log is one for the whole process.
func TestStandardLogIsCaptured(t *testing.T) { //nolint:paralleltest // see above
	var debug, info bytes.Buffer
	restore := CaptureStandardLog(newJSONLogger(&debug, slog.LevelDebug))
	log.Printf("Unsolicited response received on idle HTTP channel starting with %q", strings.Repeat("\x1b[31m", 1000))
	restore()
	line := debug.String()
	if !strings.Contains(line, `"level":"DEBUG"`) || !strings.Contains(line, "Unsolicited response") || strings.Count(line, "\n") != 1 {
		t.Errorf("logged %q", line)
	}
	if len(line) > 2*mostLibraryText {
		t.Errorf("a line of %d bytes", len(line))
	}
	defer CaptureStandardLog(newJSONLogger(&info, slog.LevelInfo))()
	log.Print("noise")
	if info.Len() > 0 {
		t.Errorf("logged %q", info.String())
	}
}
