// Command exporter.
package main

func main() {}
