// Command tail prints events as they are published. It misses what happens while it is away: where that
// matters, begin with durable.
//
//	go run ./tail nats://127.0.0.1:4222 acme.creds
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: tail URL CREDENTIALS")
	}
	// A node whose certificate is of a CA of its own: add nats.RootCAs("ca.pem").
	nc, err := nats.Connect(os.Args[1], nats.UserCredentials(os.Args[2]), nats.MaxReconnects(-1))
	must(err)
	events, err := nc.SubscribeSync("bluejay.events.>")
	must(err)
	must(nc.Flush())
	log.Print("listening")
	for {
		m, err := events.NextMsgWithContext(context.Background())
		must(err)
		fmt.Printf("%s\n", m.Data)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
