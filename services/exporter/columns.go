package exporter

import (
	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/exporter/format"
)

// formatColumns are the store's columns in the encoders' words.
func formatColumns(columns []store.ExportColumn) []format.Column {
	out := make([]format.Column, len(columns))
	for i, c := range columns {
		out[i].Name = c.Name
		switch c.Type {
		case store.ColumnInt:
			out[i].Type = format.Int
		case store.ColumnFloat:
			out[i].Type = format.Float
		case store.ColumnBool:
			out[i].Type = format.Bool
		case store.ColumnTime:
			out[i].Type = format.Time
		case store.ColumnJSON:
			out[i].Type = format.JSON
		default:
			out[i].Type = format.String
		}
	}
	return out
}

// createOptions are the headers of the object. It is handed out as it is stored: a .gz is saved as a .gz.
func createOptions(e store.Export) blob.CreateOptions {
	return blob.CreateOptions{ContentType: format.ContentType(format.Format(e.Format), format.Compression(e.Compression))}
}
