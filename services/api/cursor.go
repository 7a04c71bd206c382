package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
)

// maxCursor bounds what a client may send as a cursor.
const maxCursor = 1024

// cursor is the last key of a page in a form that nobody should read anything into; empty when there is no next page.
// what names the list, so that a cursor of one list is refused by another.
func cursor(what string, key ...any) string {
	text, err := json.Marshal(append([]any{what}, key...))
	if err != nil {
		return "" // keys are strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// readCursor reads what cursor wrote into the pointers key; an empty text leaves them as they are.
func readCursor(text, what string, key ...any) error {
	if text == "" {
		return nil
	}
	refused := problem(http.StatusUnprocessableEntity, "validation failed", field("query.cursor", "is no cursor of this list"))
	if len(text) > maxCursor {
		return refused
	}
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return refused
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil || len(parts) != len(key)+1 {
		return refused
	}
	var of string
	if err := json.Unmarshal(parts[0], &of); err != nil || of != what {
		return refused
	}
	for i, to := range key {
		if err := json.Unmarshal(parts[i+1], to); err != nil {
			return refused
		}
	}
	return nil
}
