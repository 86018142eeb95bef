package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"bluejay/broker"
	"bluejay/hooks"
)

// brokerFigures are a broker's own. custody_difference must be 0, and post_revocation_deliveries
// too. [C-7] [C-revoke]
var brokerFigures = []figure[hooks.Counts]{
	{name: "custody_accepted_total", help: "Texts taken into custody.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Custody.Accepted) }},
	outcome("delivered", func(c hooks.Counts) int64 { return c.Custody.Delivered }),
	outcome("queued", func(c hooks.Counts) int64 { return c.Custody.Queued }),
	outcome("returned", func(c hooks.Counts) int64 { return c.Custody.Returned }),
	{name: "custody_in_flight", help: "Texts whose recipient has not acknowledged yet.",
		read: func(c hooks.Counts) float64 { return float64(c.Custody.InFlight) }},
	{name: "custody_difference", help: "Accepted less what became of it: anything but 0 is a bug.",
		read: func(c hooks.Counts) float64 { return float64(c.Custody.Difference()) }},
	{name: "custody_late_total", help: "Acknowledgements that came after the outcome.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Custody.Late) }},
	{name: "custody_joined_total", help: "Resends that met their attempt in flight.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Custody.Joined) }},
	{name: "sessions", help: "Handsets connected.", read: func(c hooks.Counts) float64 { return float64(c.Sessions) }},
	{name: "presence_blue", help: "Handsets shown as reachable.", read: func(c hooks.Counts) float64 { return float64(c.Blue) }},
	{name: "presence_watches", help: "Presence subscriptions.", read: func(c hooks.Counts) float64 { return float64(c.Watches) }},
	{name: "bundles", help: "Key bundles held.", read: func(c hooks.Counts) float64 { return float64(c.Bundles) }},
	{name: "connects_refused_total", help: "CONNECTs refused.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Refused) }},
	{name: "hellos_undelivered_total", help: "Hellos for which nobody was there; their senders are not told.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.HellosUndelivred) }},
	{name: "revocations_total", help: "Consents switched off.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Revocations) }},
	{name: "suspensions_total", help: "Connected handsets silenced by a new notice or another SIM.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.Suspensions) }},
	{name: "revocation_last_seconds", help: "From the last revocation's arrival to its acknowledgement.",
		read: func(c hooks.Counts) float64 { return c.RevocationLast.Seconds() }},
	{name: "post_revocation_deliveries_total", help: "Deliveries stopped at the last check after a revocation: anything but 0 is a bug.", counter: true,
		read: func(c hooks.Counts) float64 { return float64(c.PostRevocation) }},
}

// eventFigures are about what leaves for integrators.
var eventFigures = []figure[broker.EventCounts]{
	{name: "integrators", help: "Integrators that are served.", read: func(c broker.EventCounts) float64 { return float64(c.Integrators) }},
	{name: "events_published_total", help: "Events stored at an integrator.", counter: true,
		read: func(c broker.EventCounts) float64 { return float64(c.Published) }},
	{name: "events_withheld_total", help: "Events of users who did not agree when they were to leave.", counter: true,
		read: func(c broker.EventCounts) float64 { return float64(c.Withheld) }},
	{name: "events_withdrawn_total", help: "Users taken back from an integrator.", counter: true,
		read: func(c broker.EventCounts) float64 { return float64(c.Withdrawn) }},
}

// logFigures are about the consent log.
var logFigures = []figure[broker.LogCounts]{
	{name: "consent_log_entries", help: "Events in the consent log.", read: func(c broker.LogCounts) float64 { return float64(c.Entries) }},
	{name: "consent_log_failed", help: "1 while the consent log cannot be written: no consent begins, and no end of one is acknowledged.",
		read: func(c broker.LogCounts) float64 {
			if c.Failed {
				return 1
			}
			return 0
		}},
}

// outcome is one of the ways custody ends.
func outcome(name string, read func(hooks.Counts) int64) figure[hooks.Counts] {
	return figure[hooks.Counts]{
		name: "custody_ended_total", help: "Texts that left custody, by how.", labels: prometheus.Labels{"outcome": name}, counter: true,
		read: func(c hooks.Counts) float64 { return float64(read(c)) },
	}
}
