package embedded

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestBoundedLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	log, err := openBoundedLog(path)
	if err != nil {
		t.Fatal(err)
	}
	var input strings.Builder
	line := strings.Repeat("x", 1000)
	for i := range 3 * maxLogBytes / 1000 {
		input.WriteString(strconv.Itoa(i) + line + "\n")
	}
	input.WriteString(strings.Repeat("y", 3*maxLogLine) + "\nlast")
	log.drain(strings.NewReader(input.String()))
	if !strings.HasSuffix(log.lastLines(), "\nlast") {
		t.Errorf("newest line is missing in %.100q", log.lastLines())
	}
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	var total int64
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*maxLogBytes || total < maxLogBytes {
		t.Errorf("%d bytes in %d files, want between one and two times %d", total, len(files), maxLogBytes)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(content), "last") {
		t.Error("newest line is not in the file")
	}
}
