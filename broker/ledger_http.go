package broker

import (
	"net/http"
)

// serveLog serves the log: its newest checkpoint, and tiles, which never change. Nothing else of the
// directory can be named. [L-5]
func (l *Ledger) serveLog(mux *http.ServeMux) {
	mux.HandleFunc("GET /log/checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(l.Checkpoint())
	})
	mux.HandleFunc("GET /log/tile/{path...}", func(w http.ResponseWriter, r *http.Request) {
		b, err := l.Tile("tile/" + r.PathValue("path"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		_, _ = w.Write(b)
	})
}
