package worker

import (
	"errors"
	"log/slog"
	"time"

	"bluejay/sms"
	"bluejay/wire"
)

// Config says what a worker works with. The first ten fields must be set.
type Config struct {
	Queue        Queue
	Journal      Journal
	Events       Events
	Registrar    Registrar
	Keys         Keys
	Suppressions Suppressions
	Caps         Caps
	Routes       *sms.Routes
	SealNumber   func(wire.Number) ([]byte, error) // to the registrar; envelope.SealNumber with its key [F-18]
	NumberKey    []byte                            // K_sms, at least 16 bytes, the same for all workers of a journal [F-9]

	Records       Records           // nil: nobody is told what is held, and nothing is erased [H-1]
	Limits        CapLimits         // zero: the defaults [F-21]
	Replies       Replies           // zero: none; see [DefaultReplies] [F-19]
	Observe       func(Observation) // nil: nobody looks. Called concurrently; it must not block
	Secrets       Secrets           // keeps the day keys; nil: in memory, so a restart loses what is queued
	Window        int               // jobs being submitted at once; 0: 32
	UnknownWait   time.Duration     // how long a job in doubt waits; 0: 60 s
	SubmitTimeout time.Duration     // for one attempt, waiting for a link included; 0: 30 s
	Heartbeat     time.Duration     // between "in progress" for held jobs, below a third of AckWait; 0: 10 s
	Grace         time.Duration     // for jobs being submitted when Run's ctx ends; 0: 10 s
	Log           *slog.Logger      // nil: no log. It never gets a number or a text
}

// CapLimits bounds what is spent, in SMS parts a UTC day. A route's own bound is its Daily. [F-21]
type CapLimits struct {
	PerNumber int // to one number; 0: 30, negative: no bound
	PerSender int // for one sender; 0: 200, negative: no bound
	Daily     int // for all together; 0: no bound
}

// Replies is what is answered to a keyword, as one SMS; "" is nothing. [F-19]
type Replies struct {
	Start string
	Help  string
}

// DefaultReplies returns texts of at most 160 characters of the GSM alphabet. [F-19]
func DefaultReplies() Replies {
	return Replies{
		Start: "You can get SMS from Bluejay users again. Reply STOP to end this at any time.",
		Help:  "Bluejay delivers texts by SMS when you cannot be reached online. Reply STOP to get no more, START to get them again.",
	}
}

// Limits of the worker itself.
const (
	doubtfulPerWindow = 16               // jobs in doubt for each place in the window
	portTimeout       = 10 * time.Second // for one call of a port
	portTries         = 5
	maxLifetime       = 24 * time.Hour // of a job [F-4]
	maxParty          = 512            // bytes of a party's token; a longer one is no party
)

func (c Config) withDefaults() Config {
	c.Limits.PerNumber = orDefault(c.Limits.PerNumber, 30)
	c.Limits.PerSender = orDefault(c.Limits.PerSender, 200)
	c.Secrets = orDefault[Secrets](c.Secrets, &memory{})
	c.Window = orDefault(c.Window, 32)
	c.UnknownWait = orDefault(c.UnknownWait, time.Minute)
	c.SubmitTimeout = orDefault(c.SubmitTimeout, 30*time.Second)
	c.Heartbeat = orDefault(c.Heartbeat, 10*time.Second)
	c.Grace = orDefault(c.Grace, 10*time.Second)
	c.Log = orDefault(c.Log, slog.New(slog.DiscardHandler))
	if c.Observe == nil {
		c.Observe = func(Observation) {}
	}
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// errConfig is all that can be wrong with a Config.
var errConfig = errors.New("worker: queue, journal, events, registrar, keys, suppressions, caps, routes, a way to seal a number and a number key of 16 bytes must be set")

func (c Config) check() error {
	for _, missing := range []bool{
		c.Queue == nil, c.Journal == nil, c.Events == nil, c.Registrar == nil, c.Keys == nil, c.Suppressions == nil,
		c.Caps == nil, c.Routes == nil, c.SealNumber == nil, len(c.NumberKey) < 16,
	} {
		if missing {
			return errConfig
		}
	}
	return nil
}
