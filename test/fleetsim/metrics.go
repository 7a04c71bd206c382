package fleetsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// MetricsPath is where a server shows its figures, as the second of the systems that Picket replaces had it.
const MetricsPath = "/api/v1/metrics/current"

// MetricsMode is how a server answers on [MetricsPath]. A server that hangs or resets does so there as well, and a
// critical one still shows its figures.
type MetricsMode int32

// What servers do when they are asked for figures.
const (
	GoodMetrics    MetricsMode = iota
	BadType                    // cpu_percent is a text
	GarbageMetrics             // declared as JSON, and none
	NoMetrics                  // 404
	HugeMetrics                // 64 MiB of it
	HangingMetrics             // begins and never ends
)

var metricsModes = [...]string{"good", "bad_type", "garbage", "none", "huge", "hanging"}

// String is the word for the mode, as in reports.
func (m MetricsMode) String() string {
	if m < 0 || int(m) >= len(metricsModes) {
		return fmt.Sprintf("mode(%d)", int32(m))
	}
	return metricsModes[m]
}

// MarshalText writes the word.
func (m MetricsMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the word.
func (m *MetricsMode) UnmarshalText(text []byte) error {
	for i, word := range metricsModes {
		if word == string(text) {
			*m = MetricsMode(i)
			return nil
		}
	}
	return fmt.Errorf("unknown mode of metrics %q, there are %v", text, metricsModes)
}

// hugeMetrics is the length of an answer that is too long for anybody.
const hugeMetrics = 64 << 20

// SampledAt is the name of the figure that says when the others were taken, in milliseconds since the Unix epoch: with
// it and the server's number everything else of an answer is known, see [Figures].
const SampledAt = "sampled_at_ms"

// Figures are what server i shows in a good answer of that instant, SampledAt among them. Totals grow with time, gauges
// go up and down, and each server has its own.
func Figures(i int, atMS int64) map[string]float64 {
	n, second := int64(i), atMS/1000
	up := second - 1_750_000_000 // since they were started, long ago
	failed := (n + second) % 3
	return map[string]float64{
		"cpu_percent":      float64((n*37+second*3)%1001) / 10,
		"memory_percent":   float64((n*53+second)%1001) / 10,
		"disk_percent":     float64((n*11+second/60)%1001) / 10,
		"network_rx_bytes": float64(up * (1000 + n%500)),
		"network_tx_bytes": float64(up * (500 + n%300)),
		"active_services":  float64(10 + n%5 - failed),
		"failed_services":  float64(failed),
		"total_services":   float64(10 + n%5),
		"llm_requests":     float64(up * (1 + n%7)),
		"llm_cost_usd":     float64(up*(1+n%7)*17) / 1e6,
		"active_users":     float64((n + second) % 40),
		"total_users":      float64(100 + n%50),
		SampledAt:          float64(atMS),
	}
}

// Extra is what server i shows besides, as JSON.
func Extra(i int) string {
	return `{"host":"` + string(appendName(nil, i)) + `","gpu":[{"use":0.5}]}`
}

// appendMetrics appends a whole response to a request for figures.
func (f *Fleet) appendMetrics(out, body []byte, i int, at time.Time, mode MetricsMode, head bool) (answer, room []byte) {
	code := "200 OK"
	body = body[:0]
	length := -1
	switch mode {
	case NoMetrics:
		code, body = "404 Not Found", append(body, `{"detail":"Not Found"}`...)
	case GarbageMetrics:
		body = append(body, `{"cpu_percent": 12.5, "mem`...)
	case HugeMetrics, HangingMetrics:
		body, length = append(body, `{"cpu_percent": 12.5`...), hugeMetrics
	default:
		figures := Figures(i, at.UnixMilli())
		shown := make(map[string]any, len(figures))
		for name, value := range figures {
			shown[name] = value
		}
		if mode == BadType {
			shown["cpu_percent"] = strconv.FormatFloat(figures["cpu_percent"], 'f', 1, 64)
		}
		data, _ := json.Marshal(shown) // numbers and one text
		body = append(body, data[:len(data)-1]...)
		body = append(append(body, ','), Extra(i)[1:]...)
	}
	if length < 0 {
		length = len(body)
	}
	out = append(out, "HTTP/1.1 "...)
	out = append(out, code...)
	out = append(out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(length), 10)
	out = append(out, "\r\n\r\n"...)
	if !head {
		out = append(out, body...)
	}
	return out, body
}

// SetMetrics changes how server i answers when it is asked for figures, from the next request on.
func (f *Fleet) SetMetrics(i int, mode MetricsMode) { f.servers[i].metrics.Store(int32(mode)) }

// MetricsURL is where server i shows its figures.
func (f *Fleet) MetricsURL(i int) string { return f.scheme(i) + f.Addr(i) + MetricsPath }

// SetTokens changes which bearer tokens the servers take, one of them with each request; none: they want no token.
func (f *Fleet) SetTokens(tokens ...string) {
	headers := make([][]byte, 0, len(tokens))
	for _, token := range tokens {
		headers = append(headers, []byte("Bearer "+token))
	}
	f.tokens.Store(&headers)
}

// admits says whether a request may be answered.
func (f *Fleet) admits(authorization []byte) bool {
	headers := f.tokens.Load()
	if headers == nil || len(*headers) == 0 {
		return true
	}
	for _, header := range *headers {
		if bytes.Equal(header, authorization) {
			return true
		}
	}
	return false
}

const unauthorized = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"

// showed remembers that a server has shown its figures, and when they were taken.
func (s *server) showed(at time.Time, keep int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown++
	if keep > 0 && len(s.sampled) >= keep {
		s.sampled = append(s.sampled[:0], s.sampled[1:]...)
	}
	if keep > 0 {
		s.sampled = append(s.sampled, at.UnixMilli())
	}
}

// sampledAt are the remembered instants, oldest first.
func (s *server) sampledAt() (shown uint64, sampled []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown, append([]int64(nil), s.sampled...)
}
