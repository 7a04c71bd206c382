package metric

import (
	"math"
	"regexp"
)

// The figures that have columns of their own; their names are those of the source system's JSON.
const (
	CPUPercent     = "cpu_percent"
	MemoryPercent  = "memory_percent"
	DiskPercent    = "disk_percent"
	NetworkRxBytes = "network_rx_bytes"
	NetworkTxBytes = "network_tx_bytes"
	ActiveServices = "active_services"
	FailedServices = "failed_services"
	TotalServices  = "total_services"
	LLMRequests    = "llm_requests"
	LLMCostUSD     = "llm_cost_usd"
	ActiveUsers    = "active_users"
	TotalUsers     = "total_users"
)

// Unit says what numbers a well-known figure can be.
type Unit int

// The units.
const (
	// Percent is a finite number that is not negative. It may pass 100 where a server counts each processor.
	Percent Unit = iota
	// Count is a whole number, not negative and at most 2^53: how many there are now.
	Count
	// Total is a Count that only grows, until what counts starts anew: bytes on all network devices since the start.
	Total
	// Money is a finite number of US dollars: what was spent since the server's start, a total as well.
	Money
)

// WellKnown returns the unit of a figure that has a column of its own.
func WellKnown(name string) (Unit, bool) {
	switch name {
	case CPUPercent, MemoryPercent, DiskPercent:
		return Percent, true
	case NetworkRxBytes, NetworkTxBytes, LLMRequests:
		return Total, true
	case ActiveServices, FailedServices, TotalServices, ActiveUsers, TotalUsers:
		return Count, true
	case LLMCostUSD:
		return Money, true
	default:
		return 0, false
	}
}

// maxWhole is the largest number up to which every whole one is a float64.
const maxWhole = 1 << 53

// Fits says whether value is one that unit allows.
func (u Unit) Fits(value float64) bool {
	switch {
	case !finite(value):
		return false
	case u == Money:
		return true
	case u == Percent:
		return value >= 0
	default:
		return value >= 0 && value <= maxWhole && value == math.Trunc(value)
	}
}

// MaxName bounds the name of a figure, in bytes.
const MaxName = 64

var figureName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.:-]{0,63}$`)

// IsName says whether a figure can have this name: 1 to 64 of letters, digits and _ . : -, beginning with a letter or _.
func IsName(name string) bool { return figureName.MatchString(name) }

func finite(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }
