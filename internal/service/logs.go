package service

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
)

// LogFormat says how log lines look.
type LogFormat string

// The formats: auto is text on a terminal and json elsewhere.
const (
	LogAuto LogFormat = "auto"
	LogJSON LogFormat = "json"
	LogText LogFormat = "text"
)

// UnmarshalText accepts the three words.
func (f *LogFormat) UnmarshalText(text []byte) error {
	switch word := LogFormat(strings.ToLower(string(text))); word {
	case LogAuto, LogJSON, LogText:
		*f = word
		return nil
	default:
		return fmt.Errorf("log format %q is none of auto, json, text", text)
	}
}

// LogLevel is the least level that is logged.
type LogLevel slog.Level

// Level makes it a slog.Leveler.
func (l LogLevel) Level() slog.Level { return slog.Level(l) }

// MarshalText returns slog's name of the level.
func (l LogLevel) MarshalText() ([]byte, error) { return slog.Level(l).MarshalText() }

// UnmarshalText accepts slog's names, and Python's, which the settings of the source systems hold.
func (l *LogLevel) UnmarshalText(text []byte) error {
	switch strings.ToUpper(string(text)) {
	case "WARNING":
		*l = LogLevel(slog.LevelWarn)
	case "CRITICAL":
		*l = LogLevel(slog.LevelError)
	default:
		if err := (*slog.Level)(l).UnmarshalText(text); err != nil {
			return fmt.Errorf("%q is no level: write DEBUG, INFO, WARN or ERROR", text)
		}
	}
	return nil
}

// NewLogger writes to out: one JSON object a line (`ts`, `level`, `msg`, fields), or
// coloured text when the format or the terminal says so, with the lines of renderings
// as sentences. NO_COLOR is obeyed.
func NewLogger(out *os.File, level slog.Leveler, format LogFormat) *slog.Logger {
	terminal := isatty.IsTerminal(out.Fd())
	if format == LogText || format == LogAuto && terminal {
		text := tint.NewTextHandler(out, &tint.Options{
			Level: level, TimeFormat: time.TimeOnly, NoColor: !terminal || os.Getenv("NO_COLOR") != "",
		})
		return slog.New(renderer{text, renderings()})
	}
	return newJSONLogger(out, level)
}

func newJSONLogger(out io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.String("ts", attr.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
			}
			if d, ok := attr.Value.Any().(time.Duration); ok && attr.Value.Kind() == slog.KindDuration {
				return slog.String(attr.Key, d.String())
			}
			return attr
		},
	}))
}

// mostLibraryText bounds what a line of the standard log keeps of its text.
const mostLibraryText = 200

// CaptureStandardLog has what libraries write to Go's standard log (net/http does, with whole answers of servers that say
// more than they were asked) appear at the level DEBUG, cut, in the form of all other lines. The returned function ends that.
func CaptureStandardLog(to *slog.Logger) (restore func()) {
	out, flags := log.Writer(), log.Flags()
	log.SetFlags(0)
	log.SetOutput(libraryLog{to})
	return func() { log.SetOutput(out); log.SetFlags(flags) }
}

type libraryLog struct{ to *slog.Logger }

func (l libraryLog) Write(line []byte) (int, error) {
	text := strings.ToValidUTF8(string(line[:min(len(line), mostLibraryText)]), "")
	l.to.Debug("a library says", "text", strings.TrimSpace(text))
	return len(line), nil
}
