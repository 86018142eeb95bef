// Command durable stores each event in a folder, once, whatever crashes: what happened while it was away
// it gets when it comes back (for seven days). When a user withdraws, it erases what it has about them.
//
//	go run ./durable nats://127.0.0.1:4222 acme.creds events
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: durable URL CREDENTIALS FOLDER")
	}
	folder := os.Args[3]
	must(os.MkdirAll(folder, 0o700))
	store, err := os.OpenRoot(folder) // nothing is written outside of it, whatever an event says
	must(err)
	nc, err := nats.Connect(os.Args[1], nats.UserCredentials(os.Args[2]), nats.MaxReconnects(-1))
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	// The server remembers under this name how far the folder is.
	consumer, err := js.CreateOrUpdateConsumer(context.Background(), "BLUEJAY_EVENTS", jetstream.ConsumerConfig{
		Durable: filepath.Base(folder), AckPolicy: jetstream.AckExplicitPolicy,
	})
	must(err)
	events, err := consumer.Messages()
	must(err)
	for {
		m, err := events.Next()
		must(err)
		keep(store, m.Data()) // first stored, then acknowledged
		must(m.Ack())
	}
}

func keep(store *os.Root, raw []byte) {
	var e struct{ ID, Type, Subject string }
	must(json.Unmarshal(raw, &e))
	file := filepath.Join(e.Subject, e.ID+".json")
	if _, err := store.Stat(file); err == nil {
		return // at least once means: sometimes twice
	}
	if e.Type == "bluejay.consent.withdrawn" { // GDPR Art. 17: all about the user goes, here and wherever you copied it
		must(store.RemoveAll(e.Subject))
	}
	must(store.MkdirAll(e.Subject, 0o700))
	must(store.WriteFile(file+".new", raw, 0o600))
	must(store.Rename(file+".new", file))
	fmt.Printf("%s\n", raw)
}

func must(err error) {
	if err != nil {
		log.Fatal(err) // what is not acknowledged comes again
	}
}
