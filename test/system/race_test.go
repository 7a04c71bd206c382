//go:build race

package system_test

// raceFlags build the programs under test as the tests themselves are built.
func raceFlags() []string { return []string{"-race"} }
