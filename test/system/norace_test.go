//go:build !race

package system_test

func raceFlags() []string { return nil }
