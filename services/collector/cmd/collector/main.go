// Command collector.
package main

func main() {}
