// Command api.
package main

func main() {}
