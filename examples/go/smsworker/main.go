// Command smsworker is a route for SMS: it takes texts from a node, gives them to a network (here: prints
// them) and reports what became of them.
//
//	go run ./smsworker nats://127.0.0.1:4222 carrier.creds
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: smsworker URL CREDENTIALS")
	}
	nc, err := nats.Connect(os.Args[1], nats.UserCredentials(os.Args[2]), nats.MaxReconnects(-1))
	must(err)
	// In a queue group one of all your workers gets each text; otherwise each of them would send it.
	texts, err := nc.QueueSubscribeSync("bluejay.sms.submit", "sms")
	must(err)
	must(nc.Flush())
	log.Print("serving")
	for {
		m, err := texts.NextMsgWithContext(context.Background())
		must(err)
		var q struct{ ID, To, Text string }
		must(json.Unmarshal(m.Data, &q))
		fmt.Printf("SMS to %s: %s\n", q.To, q.Text)      // your network goes here; print neither in earnest
		must(m.Respond([]byte(`{"status":"accepted"}`))) // or throttled, retry, permanent
		go report(nc, map[string]string{"event": "receipt", "id": q.ID, "to": q.To, "state": "delivered"})
	}
}

// report repeats a receipt until the node has stored it.
func report(nc *nats.Conn, receipt map[string]string) {
	raw, err := json.Marshal(receipt)
	must(err)
	for {
		answer, err := nc.Request("bluejay.sms.receipt", raw, 10*time.Second)
		if err == nil && string(answer.Data) == "+OK" {
			return
		}
		time.Sleep(time.Second)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
