package health

import (
	"strings"
	"unicode"
	"unicode/utf8"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Bounds of what an Outcome carries, however much a target says.
const (
	MaxComponents = 8
	MaxCounters   = 16
	maxName       = 64  // bytes of a component's or counter's name
	maxMessage    = 200 // bytes of a message
)

// Reasons of an Outcome that is not healthy. Besides these there is
// http_<code>, for a status code that is not as it should be.
const (
	// Unreachable: no usable answer came.
	ReasonRefused            = "refused"
	ReasonReset              = "reset"
	ReasonClosed             = "closed"  // the peer hung up before it had answered
	ReasonTimeout            = "timeout" // connecting, waiting or reading
	ReasonNoRoute            = "no_route"
	ReasonDNS                = "dns"
	ReasonDNSTimeout         = "dns_timeout"
	ReasonTLS                = "tls"
	ReasonCertificateExpired = "certificate_expired"
	ReasonCertificateInvalid = "certificate_invalid"
	ReasonTooManyRedirects   = "too_many_redirects"
	ReasonProtocol           = "protocol" // what came is not the protocol asked for
	ReasonError              = "error"    // none of the above

	// Unknown: we failed to look.
	ReasonCancelled     = "cancelled"
	ReasonOpenFiles     = "open_files"     // no file descriptor left
	ReasonResources     = "resources"      // no memory, buffer or local port left
	ReasonNoPermission  = "no_permission"  // the kernel forbids us to connect
	ReasonInvalidTarget = "invalid_target" // the address cannot be dialled at all
	ReasonCredential    = "credential"     // what is to be presented cannot be opened
	ReasonOwnFault      = "own_fault"      // any other, marked by ErrOwnFault

	// Degraded or critical: an answer came and is not as it should be.
	ReasonBadBody      = "bad_body"
	ReasonReported     = "reported_status" // the body's own status
	ReasonComponent    = "component"       // a component that the body names
	ReasonAssertStatus = "assert_status"
	ReasonAssertHeader = "assert_header"
	ReasonAssertBody   = "assert_body"
	ReasonAssertJSON   = "assert_json"
	ReasonAssertAnswer = "assert_answer" // of a TCP dialogue
	ReasonLatency      = "latency"
	ReasonCertificate  = "certificate"
)

// Outcome is the verdict on one look at a target.
type Outcome struct {
	Status picketv1.Status
	// Reason is one of the Reason constants or http_<code>; empty when healthy.
	Reason string
	// Message says the same to people in one short line; empty when healthy.
	Message string
	// Components that the body names, worst first, at most MaxComponents. The
	// status of each is what it makes of the whole.
	Components []*picketv1.Component
	// Counters are the finite numbers of the body's counters object, at most
	// MaxCounters; nil when there are none.
	Counters map[string]float64
}

// raise makes o at least as bad as status. What is already as bad stays, so
// that of several causes the first one is named.
func (o *Outcome) raise(status picketv1.Status, reason, message string) {
	if Worse(status, o.Status) {
		o.Status, o.Reason, o.Message = status, reason, clean(message, maxMessage)
	}
}

// clean makes s fit for a log line, a terminal and a protobuf string: valid
// UTF-8, printable, no more than limit bytes.
func clean(s string, limit int) string {
	if len(s) > limit {
		end := limit
		for end > limit-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
