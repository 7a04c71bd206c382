package service

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.yaml.in/yaml/v4"

	"github.com/picketd/picket/internal/wire"
)

// ErrConfig is wrapped by every error about settings.
var ErrConfig = errors.New("configuration")

// Common is what every service can be told.
type Common struct {
	NATSURL         string        `env:"NATS_URL" desc:"Address of NATS; several separated by commas."`
	NATSCredentials string        `env:"PICKET_NATS_CREDENTIALS" desc:"File with the credentials for NATS (JWT and key)."`
	NATSProvision   bool          `env:"PICKET_NATS_PROVISION" desc:"Make the streams and buckets that are missing; false leaves that to a service that the NATS server lets do it."`
	Encoding        wire.Encoding `env:"PICKET_ENCODING" desc:"How messages are written: json or protobuf. Both are always read."`
	StreamMaxBytes  int64         `env:"PICKET_STREAM_MAX_BYTES" desc:"Room of each of the two large streams in bytes, when they are created."`
	StreamReplicas  int           `env:"PICKET_STREAM_REPLICAS" desc:"Replicas of each stream in a NATS cluster, when they are created."`
	Location        string        `env:"PICKET_LOCATION" desc:"Where this process stands."`
	Instance        string        `env:"PICKET_INSTANCE" desc:"Name of this process, unique among the living; empty: host name and process id."`
	AdminListen     string        `env:"PICKET_ADMIN_LISTEN" desc:"Address of /livez, /readyz, /health and /metrics."`
	PprofListen     string        `env:"PICKET_PPROF_LISTEN" desc:"Address of /debug/pprof, which shows what is in memory; empty: none."`
	LogLevel        LogLevel      `env:"LOG_LEVEL" desc:"Least level that is logged: DEBUG, INFO, WARN or ERROR."`
	LogFormat       LogFormat     `env:"PICKET_LOG_FORMAT" desc:"auto, json or text; auto is text on a terminal."`
	ShutdownTimeout time.Duration `env:"PICKET_SHUTDOWN_TIMEOUT" desc:"How long a stop may take before the process ends all the same."`
}

// DefaultCommon returns the defaults; adminListen is the service's own port.
func DefaultCommon(adminListen string) Common {
	return Common{
		NATSURL:         "nats://localhost:4222",
		NATSProvision:   true,
		Encoding:        wire.JSON,
		StreamMaxBytes:  20 << 30,
		StreamReplicas:  1,
		Location:        "local",
		AdminListen:     adminListen,
		LogLevel:        LogLevel(slog.LevelInfo),
		LogFormat:       LogAuto,
		ShutdownTimeout: 20 * time.Second,
	}
}

// Sources says where settings come from, the last word last: the `settings` of
// a YAML file, then the environment.
type Sources struct {
	// File is the path of the YAML file; empty: none.
	File string
	// Environ is the environment as os.Environ returns it.
	Environ []string
	// Shared passes over settings of the file that config does not have: they are
	// another service's. Whoever has all settings leaves it false and refuses them.
	Shared bool
}

// Load fills config, a pointer to a struct whose fields hold the defaults and
// carry the tag `env`. A key of the file is the variable's name in lower case. A
// variable with the suffix _FILE names a file that holds the value. Durations
// are Go durations or plain seconds. Every fault is in the error, which wraps
// ErrConfig, by the name of its setting.
func Load(config any, sources Sources) error {
	values, faults := fromFile(config, sources)
	environ := environment(sources.Environ)
	maps.Copy(values, environ)
	faults = append(faults, readFiles(config, values)...)
	faults = append(faults, parse(config, values)...)
	if validator, ok := config.(interface{ Validate() error }); ok && len(faults) == 0 {
		if err := validator.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(faults...))
}

// ParseDuration reads a Go duration, or a plain number as seconds, which is how
// the source systems write them.
func ParseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		const most = float64(1<<63-1) / float64(time.Second)
		if seconds != seconds || seconds > most || seconds < -most {
			return 0, fmt.Errorf("%q is no duration", text)
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: write 30s, 5m, 1h, or seconds as a plain number", text)
	}
	return d, nil
}

func environment(environ []string) map[string]string {
	values := make(map[string]string, len(environ))
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		// An empty variable is what compose files pass for one that is not set.
		if value != "" {
			values[name] = value
		}
	}
	return values
}

// fromFile reads the `settings` section into variables.
func fromFile(config any, sources Sources) (map[string]string, []error) {
	values := map[string]string{}
	path := sources.File
	if path == "" {
		return values, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return values, []error{fmt.Errorf("read settings: %w", err)}
	}
	var file struct {
		Settings yaml.Node `yaml:"settings"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return values, []error{fmt.Errorf("%s: %w", path, err)}
	}
	if file.Settings.IsZero() {
		return values, nil
	}
	if file.Settings.Kind != yaml.MappingNode {
		return values, []error{fmt.Errorf("%s:%d:%d: settings is not a mapping", path, file.Settings.Line, file.Settings.Column)}
	}
	var faults []error
	known := settingNames(config)
	for i := 0; i+1 < len(file.Settings.Content); i += 2 {
		key, value := file.Settings.Content[i], file.Settings.Content[i+1]
		name := strings.ToUpper(key.Value)
		switch {
		case value.Kind != yaml.ScalarNode:
			faults = append(faults, fmt.Errorf("%s:%d:%d: setting %s is not a single value", path, value.Line, value.Column, key.Value))
		case !slices.Contains(known, name) && sources.Shared:
		case !slices.Contains(known, name):
			faults = append(faults, fmt.Errorf("%s:%d:%d: unknown setting %s", path, key.Line, key.Column, key.Value))
		default:
			values[name] = value.Value
		}
	}
	return values, faults
}

// readFiles replaces NAME_FILE by the content of the file, for the variables of config.
func readFiles(config any, values map[string]string) []error {
	var faults []error
	for _, setting := range Describe(config) {
		path, ok := values[setting.Name+"_FILE"]
		if !ok {
			continue
		}
		if _, both := values[setting.Name]; both {
			faults = append(faults, fmt.Errorf("%s and %s_FILE are both set", setting.Name, setting.Name))
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s_FILE: %w", setting.Name, err))
			continue
		}
		values[setting.Name] = strings.TrimRight(string(content), "\r\n")
	}
	return faults
}

// parse reads values into config. The parser's errors name fields, of which
// several structs may have the same, so each value is tried alone first: that
// tells whose fault it is.
func parse(config any, values map[string]string) []error {
	options := env.Options{FuncMap: map[reflect.Type]env.ParserFunc{
		reflect.TypeFor[time.Duration](): func(text string) (any, error) { return ParseDuration(text) },
	}}
	var faults []error
	good := make(map[string]string, len(values))
	for _, setting := range Describe(config) {
		text, set := values[setting.Name]
		if !set {
			continue
		}
		options.Environment = map[string]string{setting.Name: text}
		scratch := reflect.New(reflect.Indirect(reflect.ValueOf(config)).Type())
		if err := env.ParseWithOptions(scratch.Interface(), options); err != nil {
			if _, known := good[setting.Name]; !known {
				faults = append(faults, fmt.Errorf("%s: %w", setting.Name, innermost(err)))
			}
			good[setting.Name] = ""
			continue
		}
		good[setting.Name] = text
	}
	if len(faults) > 0 {
		return faults
	}
	options.Environment = good
	if err := env.ParseWithOptions(config, options); err != nil {
		return []error{err}
	}
	return nil
}

// innermost unwraps the parser's own words about Go types and fields.
func innermost(err error) error {
	if all, ok := errors.AsType[env.AggregateError](err); ok && len(all.Errors) == 1 {
		err = all.Errors[0]
	}
	if fault, ok := errors.AsType[env.ParseError](err); ok {
		err = fault.Err
	}
	// What the standard library says names its own functions.
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		switch {
		case number.Func == "ParseBool":
			return fmt.Errorf("%q is neither true nor false", number.Num)
		case errors.Is(number, strconv.ErrRange):
			return fmt.Errorf("%q is out of range", number.Num)
		default:
			return fmt.Errorf("%q is not a number", number.Num)
		}
	}
	return err
}

// UnknownVariables returns the variables of the environment that begin with
// PICKET_ and mean nothing to config: most often a misspelling.
func UnknownVariables(config any, environ []string) []string {
	known := append(settingNames(config), readElsewhere()...)
	var unknown []string
	for name := range environment(environ) {
		if strings.HasPrefix(name, "PICKET_") && !strings.HasSuffix(name, "_HEALTH_URL") && !strings.HasPrefix(name, "PICKET_SECRET_") &&
			!slices.Contains(known, strings.TrimSuffix(name, "_FILE")) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}
