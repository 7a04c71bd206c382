package fleetsim

import (
	"bufio"
	"cmp"
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
//	GET  /config?interval=30s                    a picket.yaml with every server
//	POST /servers/{index}?behaviour=critical     [Fleet.Set]
func (f *Fleet) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The client is gone when this fails; there is nobody to tell.
		_ = json.NewEncoder(w).Encode(f.Report())
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, r *http.Request) {
		interval := 30 * time.Second
		if text := r.FormValue("interval"); text != "" {
			var err error
			if interval, err = time.ParseDuration(text); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		w.Header().Set("Content-Type", "application/yaml")
		_ = f.WriteConfig(w, interval) // as above
	})
	mux.HandleFunc("POST /servers/{index}", func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(r.PathValue("index"))
		if err != nil || i < 0 || i >= f.Len() {
			http.Error(w, "no such server", http.StatusNotFound)
			return
		}
		var behaviour Behaviour
		if err := behaviour.UnmarshalText([]byte(r.FormValue("behaviour"))); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.Set(i, behaviour)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// WriteConfig writes a picket.yaml that names every server of the running fleet.
func (f *Fleet) WriteConfig(w io.Writer, interval time.Duration) error {
	return writeConfig(w, interval, f.Len(), f.Name, f.URL)
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
	f := &Fleet{port: opts.Port}
	return writeConfig(w, interval, opts.Servers, f.Name, f.URL)
}

func writeConfig(w io.Writer, interval time.Duration, n int, name, url func(int) string) error {
	buffered := bufio.NewWriter(w)
	_, err := fmt.Fprintf(buffered, "defaults:\n  interval: %s\nservers:\n", interval)
	for i := 0; i < n && err == nil; i++ {
		_, err = fmt.Fprintf(buffered, "  - name: %s\n    url: %s\n", name(i), url(i))
	}
	if err := cmp.Or(err, buffered.Flush()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
