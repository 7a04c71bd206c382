// Package exporter is the service that makes exports: work items become objects, rows of one snapshot streamed in the format
// asked for into the blob store. All its replicas share the queue picket.work.export.
//
// An export is a row of export_jobs and, at its end, one object. Each attempt has a number and a lease by the database's
// clock. The object appears, by [blob.Upload.Commit], only while the attempt holds the lock of its row and is the newest, and
// a new attempt first abandons the uploads of those before; so a process that was stopped, and goes on after its lease, can
// finish neither the object nor the row. The object is read back and its SHA-256 compared before the row says COMPLETED. What
// a killed process leaves, a row in the works, an upload, an object that belongs to no completed export, the sweep finds.
//
// May enter: items of PICKET_WORK, rows. May leave: objects, events on picket.<org>.export.>, callbacks to addresses that
// people gave. It answers nobody.
package exporter
