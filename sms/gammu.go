package sms

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"bluejay/wire"
)

// GammuConfig names the folders of gammu-smsd's files backend (gammu-smsd-files(7)), which drives a
// phone or a modem on this machine. Name, Outbox, Error and Sent must be set. While a text is in a
// folder, its number and its words are there in the clear: keep the folders on a private disk.
type GammuConfig struct {
	Name   string
	Outbox string        // OutboxPath: texts to send
	Sent   string        // SentSMSPath: moved here once the phone has sent it
	Error  string        // ErrorSMSPath: moved here when the phone could not
	Inbox  string        // InboxPath: texts from phones; "": none are taken
	Poll   time.Duration // between looks at the folders; 0: 2 s
	Limit  int           // texts in the outbox at most; 0: 100
	Log    *slog.Logger
}

// Gammu is a transport over a spool. A text is accepted when its file is in the outbox, under a name
// that is its id; gammu-smsd cuts it into parts. It never says "delivered": a text that the phone has
// sent stays submitted, one that it could not send is reported as undeliverable.
type Gammu struct {
	cfg  GammuConfig
	full atomic.Bool
}

// NewGammu returns a transport; it touches no folder yet.
func NewGammu(c GammuConfig) (*Gammu, error) {
	if c.Name == "" || c.Outbox == "" || c.Sent == "" || c.Error == "" {
		return nil, errors.New("sms: gammu needs a name and the folders outbox, sent and error")
	}
	c.Poll = orDefault(c.Poll, 2*time.Second)
	c.Limit = orDefault(c.Limit, 100)
	c.Log = orDefault(c.Log, slog.New(slog.DiscardHandler))
	return &Gammu{cfg: c}, nil
}

// Route is the configured name.
func (g *Gammu) Route() string { return g.cfg.Name }

// Linked reports whether the spool took the last text; before the first, true.
func (g *Gammu) Linked() bool { return !g.full.Load() }

// Check reports whether the folders are there and may be used. It does not know whether gammu-smsd
// runs, or whether its phone does.
func (g *Gammu) Check(context.Context) error {
	for _, dir := range []string{g.cfg.Outbox, g.cfg.Sent, g.cfg.Error, g.cfg.Inbox} {
		if dir == "" {
			continue
		}
		f, err := os.CreateTemp(dir, ".bluejay-check-")
		if err != nil {
			return fmt.Errorf("%w: make the folder, and let the worker's user and gammu-smsd's write to it", err)
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Turn has nothing to wait for: a full outbox is an answer.
func (g *Gammu) Turn(context.Context) (*Turn, error) { return nil, nil }

// Submit puts the whole text into the outbox. The rename is the acceptance: before it, nothing sends
// the text; a crash after it leaves the answer unknown to the journal, as with any transport. [F-11]
func (g *Gammu) Submit(ctx context.Context, m Message) Result {
	switch {
	case Parts(m.Text, m.Charset) > wire.MaxSMSParts:
		return Result{Outcome: NotSent, Class: Permanent, Err: ErrTooLong}
	case m.Done > 0: // accepted before: there are no further parts
		return Result{Whole: true}
	case over(ctx):
		return Result{Outcome: NotSent, Err: ErrNoLink}
	case g.crowded():
		return Result{Class: Retry}
	}
	id := newGatewayID()
	name := spoolName(m, id, time.Now())
	err := g.put(name, spoolText(m.Text))
	g.full.Store(err != nil)
	if err != nil {
		g.cfg.Log.Warn("the spool takes no text", "route", g.cfg.Name, "err", pathless(err))
		return Result{Outcome: NotSent, Class: Retry, Err: ErrNoLink}
	}
	return Result{IDs: []string{hex.EncodeToString(id[:])}, Whole: true}
}

// crowded reports whether the outbox has as many texts as it should.
func (g *Gammu) crowded() bool {
	d, err := os.Open(g.cfg.Outbox)
	if err != nil {
		return false // put will say
	}
	names, _ := d.Readdirnames(g.cfg.Limit + 1)
	_ = d.Close() // only read
	return len(names) > g.cfg.Limit
}

// put writes a file aside and renames it into the outbox; on disk before it is seen.
func (g *Gammu) put(name string, text []byte) error {
	f, err := os.CreateTemp(g.cfg.Outbox, ".bluejay-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o660), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(g.cfg.Outbox, name))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is left of it names nobody to gammu-smsd
	}
	return err
}

// spoolName is OUT<priority><date>_<time>_<serial>_<recipient>_<note>.txtd: urgent texts first, with a
// delivery report. The note is the id.
func spoolName(m Message, id gatewayID, now time.Time) string {
	priority := "M"
	if m.Class == wire.ClassUrgent {
		priority = "A"
	}
	return fmt.Sprintf("OUT%s%s_00_%s_%x.txtd", priority, now.UTC().Format("20060102_150405"), m.To.E164(), id[:])
}

// spoolText is the text in UTF-16BE with a byte order mark, which gammu-smsd reads in every locale.
func spoolText(text string) []byte {
	b := []byte{0xfe, 0xff}
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return b
}

// Run looks at the folders until ctx ends.
func (g *Gammu) Run(ctx context.Context, h Handlers) error {
	for {
		g.look(ctx, g.cfg.Error, func(name string) error { return g.ended(ctx, h, name, wire.JobUndeliverable) })
		g.look(ctx, g.cfg.Sent, func(name string) error { return g.ended(ctx, h, name, wire.JobSubmitted) })
		if g.cfg.Inbox != "" {
			g.look(ctx, g.cfg.Inbox, func(name string) error { return g.incoming(ctx, h, name) })
		}
		if !wait(ctx, g.cfg.Poll) {
			return nil
		}
	}
}

// lookAhead bounds how many files are read at a look.
const lookAhead = 1000

// look calls f for the files of a folder, oldest first, and removes those for which it returns nil.
func (g *Gammu) look(ctx context.Context, dir string, f func(name string) error) {
	d, err := os.Open(dir)
	if err != nil {
		g.cfg.Log.Warn("a folder of the spool cannot be read", "route", g.cfg.Name, "err", pathless(err))
		return
	}
	names, _ := d.Readdirnames(lookAhead)
	_ = d.Close() // only read
	slices.Sort(names)
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		switch err := f(name); {
		case errors.Is(err, errNotOurs):
		case err != nil:
			g.cfg.Log.Warn("not stored; it stays in the spool", "route", g.cfg.Name)
		default:
			_ = os.Remove(filepath.Join(dir, name)) // if that fails, it is read again and changes nothing
		}
	}
}

var errNotOurs = errors.New("sms: not a file of this spool")

// outName and inName are the names of gammu-smsd-files(7) that are read here.
var (
	outName = regexp.MustCompile(`^OUT[A-Z][0-9]{8}_[0-9]{6}_[0-9]+_(\+[0-9]{7,15})_([0-9a-f]{32})\.txtd$`)
	inName  = regexp.MustCompile(`^IN[0-9]{8}_[0-9]{6}_[0-9]+_(\+?[0-9]{3,15})_[0-9]+\.txt$`)
)

// ended reports what became of a text of ours.
func (g *Gammu) ended(ctx context.Context, h Handlers, name string, s wire.JobState) error {
	f := outName.FindStringSubmatch(name)
	if f == nil {
		return errNotOurs
	}
	to, err := wire.ParseNumber(f[1])
	if err != nil || h.Receipt == nil {
		return errNotOurs
	}
	return h.Receipt(ctx, Receipt{Route: g.cfg.Name, ID: f[2], To: to, State: s})
}

// incoming hands on a text from a phone. One from a short code, or in no text at all, is dropped.
func (g *Gammu) incoming(ctx context.Context, h Handlers, name string) error {
	f := inName.FindStringSubmatch(name)
	if f == nil || h.Incoming == nil {
		return errNotOurs
	}
	text, err := readSpool(filepath.Join(g.cfg.Inbox, name))
	if err != nil {
		return err
	}
	m, err := incomingOf("+"+strings.TrimPrefix(f[1], "+"), "", text)
	if err != nil {
		return nil
	}
	m.Route, m.ID = g.cfg.Name, name[2:17] // date and time
	return h.Incoming(ctx, m)
}

// maxSpooled bounds what is read of one file, in bytes: in the detailed format ten parts take less.
const maxSpooled = 32 << 10

// readSpool reads a text that gammu-smsd wrote in whatever format it is set to: UTF-16 behind a mark,
// UTF-8, or a backup of the message. What is longer than a text can be is cut.
func readSpool(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSpooled))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	text := spooled(b)
	if len(text) > maxIncoming {
		text = strings.ToValidUTF8(text[:maxIncoming], "")
	}
	return text, nil
}

// backupLine is a piece of a message's text in a backup, gammu-smsbackup(5): UTF-16BE in hexadecimal.
var backupLine = regexp.MustCompile(`(?m)^Text[0-9]+ *= *((?:[0-9A-Fa-f]{4})+)\r?$`)

// backedUp reads the text of a backup, all parts of it; ok is false when b is none.
func backedUp(b []byte) (text string, ok bool) {
	if !bytes.Contains(b, []byte("\n[SMSBackup0")) {
		return "", false
	}
	var raw []byte
	for _, m := range backupLine.FindAllSubmatch(b, -1) {
		raw, _ = hex.AppendDecode(raw, m[1]) // whole bytes, as the pattern has it
	}
	return utf16Text(raw, binary.BigEndian), true
}

func spooled(b []byte) string {
	if text, ok := backedUp(b); ok {
		return text
	}
	switch {
	case len(b) >= 2 && b[0] == 0xfe && b[1] == 0xff:
		return utf16Text(b[2:], binary.BigEndian)
	case len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe:
		return utf16Text(b[2:], binary.LittleEndian)
	case utf8.Valid(b):
		return string(b)
	}
	return latin1(b)
}

func utf16Text(b []byte, order binary.ByteOrder) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		units = append(units, order.Uint16(b[i:]))
	}
	return string(utf16.Decode(units))
}

// pathless takes the path out of an error: a file's name holds a number.
func pathless(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
