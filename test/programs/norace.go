//go:build !race

package programs

// LikeTests builds as the tests themselves are built: with the race detector when they are.
func LikeTests() Kind { return Plain() }
