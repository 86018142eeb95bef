package custody

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

var update = flag.Bool("update", false, "write what the scripts in testdata print, instead of checking it")

// TestScripts runs testdata/*.txt, one file for each of [C-1] to [C-7] and [C-revoke]. A script is
// steps of the form
//
//	command name=value ...
//	----
//	what comes out, one effect a line
//
// with empty lines between them and comments of #. The commands are the entries of commands below.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	synctest.Test(t, func(t *testing.T) { got = play(t, string(text)) })
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("%s (-script +machine):\n%s", file, diff)
	}
}

// play runs every command of a script and returns the script with what came out.
func play(t *testing.T, text string) string {
	n := newNode(Config{})
	defer func() { n.timer.Stop() }()
	var out strings.Builder
	skip := false // inside the expected output of the last command
	for line := range strings.Lines(text) {
		switch line = strings.TrimSuffix(line, "\n"); {
		case line == "":
			skip = false
			out.WriteString("\n")
		case skip:
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			skip = true
			fmt.Fprintf(&out, "%s\n----\n%s", line, n.run(t, line))
		}
	}
	return out.String()
}

// A node is the smallest adapter: one Machine under one lock, one timer on Next, and a log in
// place of a network.
type node struct {
	mu    sync.Mutex
	m     *Machine
	timer *time.Timer
	log   strings.Builder
}

func newNode(cfg Config) *node {
	n := &node{m: New(cfg)}
	n.timer = time.AfterFunc(time.Hour, n.expire)
	n.timer.Stop()
	return n
}

func (n *node) expire() {
	n.do(func(dst []Effect) []Effect { return n.m.Expire(dst, time.Now()) })
}

// do performs an event under the lock, logs its effects, and sets the timer.
func (n *node) do(event func([]Effect) []Effect) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range event(nil) {
		fmt.Fprintln(&n.log, show(e))
	}
	if at, ok := n.m.Next(); ok {
		n.timer.Reset(time.Until(at))
	} else {
		n.timer.Stop()
	}
}

// run performs one command and returns what came out until everything was quiet.
func (n *node) run(t *testing.T, line string) string {
	name, rest, _ := strings.Cut(line, " ")
	command := commands[name]
	if command == nil {
		t.Fatalf("%q: no such command", line)
	}
	a := args{t, line, map[string]string{}}
	for _, field := range strings.Fields(rest) {
		k, v, _ := strings.Cut(field, "=")
		a.m[k] = v
	}
	command(n, a)
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.m.Counts().Difference(); d != 0 {
		t.Errorf("%q: [C-7] is off by %d", line, d)
	}
	out := n.log.String()
	n.log.Reset()
	if out == "" {
		out = "nothing\n"
	}
	return out
}

// args are the name=value pairs of a command.
type args struct {
	t    *testing.T
	line string
	m    map[string]string
}

func (a args) num(name string) uint64 {
	v, ok := a.m[name]
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		a.t.Fatalf("%q: %v", a.line, err)
	}
	return n
}

func (a args) duration(name string) time.Duration {
	d, err := time.ParseDuration(a.m[name])
	if err != nil {
		a.t.Fatalf("%q: %v", a.line, err)
	}
	return d
}

func (a args) conn() Conn  { return Conn(a.num("conn")) }
func (a args) pid() uint16 { return uint16(a.num("pid")) }
func (a args) id(n string) (id wire.ID) {
	copy(id[:], a.m[n])
	return id
}

func (a args) inbox(n string) wire.Topic {
	t := wire.Topic{Kind: wire.TopicInbox}
	copy(t.Tag[:], a.m[n])
	return t
}

func (a args) attempt(topic wire.Topic) Attempt {
	payload := []byte(a.m["text"])
	return Attempt{
		Key:     Key{Sender: a.id("from"), Topic: topic, Message: wire.MessageIDOf(payload)},
		Waiter:  Waiter{Conn: a.conn(), PacketID: a.pid(), Route: a.num("route")},
		Payload: payload,
	}
}

var scriptCodes = map[string]wire.Code{
	"ok": wire.OK, "no-recipient": wire.NoRecipient, "unreadable": wire.Unreadable,
	"unavailable": wire.Unavailable, "queue-full": wire.QueueFull, "revoked": wire.Revoked,
}

func (a args) code() wire.Code {
	code, ok := scriptCodes[a.m["code"]]
	if !ok {
		a.t.Fatalf("%q: no such code", a.line)
	}
	return code
}

// commands are what a script can say; from, to and id are names, text is a word.
var commands = map[string]func(n *node, a args){
	"new": func(n *node, a args) { // deadline=8s window=32 waiting=256: begin anew
		n.m = New(Config{Deadline: a.duration("deadline"), Window: int(a.num("window")), MaxWaiting: int(a.num("waiting"))})
	},
	"attach": func(n *node, a args) { // conn= id= tag= window=
		s := Session{Conn: a.conn(), Owner: a.id("id"), Tag: a.inbox("tag").Tag, Window: int(a.num("window"))}
		n.do(func(dst []Effect) []Effect { n.m.Attach(s); return dst })
	},
	"ready": func(n *node, a args) { n.do(func(dst []Effect) []Effect { return n.m.Ready(dst, a.conn()) }) },
	"withdraw": func(n *node, a args) {
		n.do(func(dst []Effect) []Effect { return n.m.Withdraw(dst, a.conn()) })
	},
	"detach": func(n *node, a args) { n.do(func(dst []Effect) []Effect { return n.m.Detach(dst, a.conn()) }) },
	"publish": func(n *node, a args) { // from= to= text= conn= pid=, or route= for another broker's request
		n.do(func(dst []Effect) []Effect { return n.m.Publish(dst, time.Now(), a.attempt(a.inbox("to"))) })
	},
	"enqueue": func(n *node, a args) { // from= text= conn= pid=
		topic := wire.Topic{Kind: wire.TopicFallback}
		n.do(func(dst []Effect) []Effect { return n.m.Enqueue(dst, time.Now(), a.attempt(topic)) })
	},
	"push": func(n *node, a args) { // conn= from= to= text= ref=
		p := Push{Topic: wire.Topic{Kind: wire.TopicHello, ID: a.id("to")}, Sender: a.id("from"), Payload: []byte(a.m["text"]), Ref: a.num("ref")}
		n.do(func(dst []Effect) []Effect {
			dst, ok := n.m.Push(dst, a.conn(), p)
			if !ok {
				fmt.Fprintln(&n.log, "refused")
			}
			return dst
		})
	},
	"ack": func(n *node, a args) {
		n.do(func(dst []Effect) []Effect { return n.m.Ack(dst, a.conn(), a.pid()) })
	},
	"unreadable": func(n *node, a args) { // conn= text=
		id := wire.MessageIDOf([]byte(a.m["text"]))
		n.do(func(dst []Effect) []Effect { return n.m.Unreadable(dst, a.conn(), id) })
	},
	"resolve": func(n *node, a args) { // ref= code=
		n.do(func(dst []Effect) []Effect { return n.m.Resolve(dst, a.num("ref"), a.code()) })
	},
	"revoke":  func(n *node, a args) { n.do(func(dst []Effect) []Effect { return n.m.Revoke(dst, a.id("id")) }) },
	"advance": func(n *node, a args) { time.Sleep(a.duration("by")) },
	"counts": func(n *node, _ args) {
		c := n.m.Counts()
		fmt.Fprintf(&n.log, "accepted=%d delivered=%d queued=%d returned=%d in-flight=%d late=%d joined=%d\n",
			c.Accepted, c.Delivered, c.Queued, c.Returned, c.InFlight, c.Late, c.Joined)
	},
}

// show is an effect as a line of a script.
func show(e Effect) string {
	switch e.Kind {
	case Deliver:
		return fmt.Sprintf("deliver conn=%d pid=%d %s %s", e.Conn, e.PacketID, showTopic(e.Topic), e.Payload)
	case Tell:
		return fmt.Sprintf("tell conn=%d pid=%d %s", e.Conn, e.PacketID, showCode(e.Code))
	case Reply:
		return fmt.Sprintf("reply route=%d %s", e.Ref, showCode(e.Code))
	case Forward:
		return fmt.Sprintf("forward ref=%d from=%s %s %s", e.Ref, word(e.Sender[:]), showTopic(e.Topic), e.Payload)
	case Enqueue:
		return fmt.Sprintf("enqueue ref=%d from=%s %s", e.Ref, word(e.Sender[:]), e.Payload)
	case Pushed:
		return fmt.Sprintf("pushed conn=%d ref=%d", e.Conn, e.Ref)
	}
	return fmt.Sprintf("unknown effect %+v", e)
}

func showTopic(t wire.Topic) string {
	return string(t.Kind) + "/" + word(t.ID[:]) + word(t.Tag[:])
}

func showCode(c wire.Code) string {
	for _, name := range slices.Sorted(maps.Keys(scriptCodes)) {
		if scriptCodes[name] == c {
			return name
		}
	}
	return c.String()
}

func word(b []byte) string { return strings.TrimRight(string(b), "\x00") }
