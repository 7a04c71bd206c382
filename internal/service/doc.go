// Package service is what every service of Picket has: its configuration read
// from one place, its logs, its answers to /livez, /readyz, /health and
// /metrics, its start, its supervised restart, its heartbeat and its stop.
// What a service does is none of its business.
package service
