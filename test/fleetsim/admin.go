package fleetsim

import (
	"bufio"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Admin is the fleet's remote control, for a fleet in a process of its own:
//
//	GET  /report                                 the [Report], as JSON
//	GET  /config?interval=30s&metrics=60s        a picket.yaml with every server, with checks of figures if metrics says how often
//	POST /servers/{index}?behaviour=critical     [Fleet.Set]
//	POST /servers/{index}?metrics=garbage        [Fleet.SetMetrics]
//	POST /tokens?token=a&token=b                 [Fleet.SetTokens]
func (f *Fleet) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The client is gone when this fails; there is nobody to tell.
		_ = json.NewEncoder(w).Encode(f.Report())
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, r *http.Request) {
		interval, metrics := 30*time.Second, f.opts.MetricsInterval
		for name, to := range map[string]*time.Duration{"interval": &interval, "metrics": &metrics} {
			text := r.FormValue(name)
			if text == "" {
				continue
			}
			var err error
			if *to, err = time.ParseDuration(text); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		w.Header().Set("Content-Type", "application/yaml")
		_ = writeConfig(w, interval, metrics, f) // as above
	})
	mux.HandleFunc("POST /servers/{index}", func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(r.PathValue("index"))
		if err != nil || i < 0 || i >= f.Len() {
			http.Error(w, "no such server", http.StatusNotFound)
			return
		}
		behaviour, mode := f.Behaviour(i), MetricsMode(f.servers[i].metrics.Load())
		for name, to := range map[string]encoding.TextUnmarshaler{"behaviour": &behaviour, "metrics": &mode} {
			if text := r.FormValue(name); text != "" || r.FormValue("behaviour")+r.FormValue("metrics") == "" {
				if err := to.UnmarshalText([]byte(text)); err != nil {
					http.Error(w, err.Error(), http.StatusBadRequest)
					return
				}
			}
		}
		f.Set(i, behaviour)
		f.SetMetrics(i, mode)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /tokens", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.SetTokens(r.Form["token"]...)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// WriteConfig writes a picket.yaml that names every server of the running fleet.
func (f *Fleet) WriteConfig(w io.Writer, interval time.Duration) error {
	return writeConfig(w, interval, f.opts.MetricsInterval, f)
}

// WriteConfig writes a picket.yaml for a fleet that [Start] would start with the same options. The port must be given,
// and the system must have all of 127.0.0.0/8, as Linux has.
func WriteConfig(w io.Writer, opts Options, interval time.Duration) error {
	if err := opts.complete(); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if opts.Port == 0 {
		return errors.New("write configuration: a fleet with no port given has none before it runs")
	}
	return writeConfig(w, interval, opts.MetricsInterval, &Fleet{port: opts.Port, servers: make([]server, opts.Servers)})
}

func writeConfig(w io.Writer, interval, metrics time.Duration, f *Fleet) error {
	buffered := bufio.NewWriter(w)
	_, err := fmt.Fprintf(buffered, "defaults:\n  interval: %s\nservers:\n", interval)
	for i := 0; i < f.Len() && err == nil; i++ {
		_, err = fmt.Fprintf(buffered, "  - name: %s\n    url: %s\n", f.Name(i), f.URL(i))
		if err == nil && metrics > 0 {
			_, err = fmt.Fprintf(buffered, "    metrics: {url: %q, interval: %s}\n", f.MetricsURL(i), metrics)
		}
	}
	if err := cmp.Or(err, buffered.Flush()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
