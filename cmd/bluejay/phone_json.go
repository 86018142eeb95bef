package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// maxCommand bounds a line of input, in bytes: a text of 1,600 characters, escaped, fits.
const maxCommand = 64 << 10

// phoneCommand is one line of input. What a command does not use is ignored.
type phoneCommand struct {
	Do      string         `json:"do"`
	Number  string         `json:"number"`
	Name    string         `json:"name"`
	Code    string         `json:"code"`
	To      string         `json:"to"`   // a contact's name, number or id
	With    string         `json:"with"` // the same
	Text    string         `json:"text"`
	ID      handset.TextID `json:"id"`
	Via     string         `json:"via"`  // ip, device or gateway
	Mode    string         `json:"mode"` // device, gateway, ask, never, or "" for the phone's own
	Visible string         `json:"visible"`
	File    string         `json:"file"`
	Lang    string         `json:"lang"`
	Notice  string         `json:"notice"` // hash of the notice that was shown; checked if given
	Scopes  []string       `json:"scopes"` // messaging, presence, gateway; none: the first two
}

// phoneLine is one line of output.
type phoneLine map[string]any

// phoneScript answers commands.
type phoneScript struct {
	dev      phoneDevice
	settings phoneSettings
	save     func(phoneSettings) error

	mu  sync.Mutex // guards out
	out io.Writer
	err error // of writing: sticky

	scopes wire.Scope // of the optin that waits for its password
}

// run answers commands in order and prints events as they come, until "quit", the end of the input or
// of ctx. It dials nothing before "optin", unless this phone is on already. [U-1]
func (s *phoneScript) run(ctx context.Context, events <-chan handset.Event, sim terminalSIM, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	var pump sync.WaitGroup
	defer pump.Wait()
	defer cancel()
	s.print("ready", s.status())
	pump.Go(func() { s.pump(ctx, events, sim) })
	if (phoneSnapshot{status: s.dev.Status(), proofs: s.dev.Proofs()}).dials() {
		pump.Go(func() {
			if err := s.dev.Connect(ctx); err != nil && ctx.Err() == nil {
				s.print("error", phoneLine{"do": "connect", "why": phoneWhy(err)})
			}
		})
	}
	lines := make(chan string)
	go scanCommands(ctx, in, lines) // ends with the input: a read cannot be interrupted
	for {
		select {
		case line, more := <-lines:
			if !more || s.answer(ctx, []byte(line)) || s.failing() {
				return s.err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// scanCommands passes the lines of the input on. One that is too long ends it.
func scanCommands(ctx context.Context, in io.Reader, lines chan<- string) {
	defer close(lines)
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 0, 4096), maxCommand)
	for scan.Scan() {
		if strings.TrimSpace(scan.Text()) == "" {
			continue
		}
		select {
		case lines <- scan.Text():
		case <-ctx.Done():
			return
		}
	}
	if errors.Is(scan.Err(), bufio.ErrTooLong) {
		select {
		case lines <- `{"do":"a command that is too long"}`:
		case <-ctx.Done():
		}
	}
}

func (s *phoneScript) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// answer carries out one command. Every command is answered once: done, error, or what it asked for.
func (s *phoneScript) answer(ctx context.Context, line []byte) (quit bool) {
	var c phoneCommand
	if err := json.Unmarshal(line, &c); err != nil {
		s.print("error", phoneLine{"why": "not one JSON object of a command: " + err.Error()})
		return false
	}
	if c.Do == "quit" {
		s.print("done", phoneLine{"do": "quit"})
		return true
	}
	run, ok := phoneCommands[c.Do]
	if !ok {
		s.print("error", phoneLine{"do": c.Do, "why": "no such command; see bluejay phone --help"})
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, phonePatience)
	defer cancel()
	l, err := run(s, ctx, c)
	if l == nil {
		l = phoneLine{}
	}
	l["do"] = c.Do
	if err != nil {
		l["why"] = phoneWhy(err)
		s.print("error", l)
		return false
	}
	s.print("done", l)
	return false
}

// phoneCommands is what can be done.
var phoneCommands = map[string]func(*phoneScript, context.Context, phoneCommand) (phoneLine, error){
	"notice": (*phoneScript).notice,
	"optin":  (*phoneScript).optIn,
	"otp":    (*phoneScript).password,
	"optout": func(s *phoneScript, ctx context.Context, _ phoneCommand) (phoneLine, error) {
		return nil, s.dev.OptOut(ctx)
	},
	"status":   func(s *phoneScript, _ context.Context, _ phoneCommand) (phoneLine, error) { return s.status(), nil },
	"contacts": func(s *phoneScript, _ context.Context, _ phoneCommand) (phoneLine, error) { return s.contacts(), nil },
	"add":      (*phoneScript).add,
	"send":     (*phoneScript).send,
	"texts":    (*phoneScript).texts,
	"again":    (*phoneScript).again,
	"cancel": func(s *phoneScript, ctx context.Context, c phoneCommand) (phoneLine, error) {
		return nil, s.dev.Cancel(ctx, c.ID)
	},
	"delete": (*phoneScript).erase,
	"open":   about(func(d phoneDevice, c handset.Contact, _ phoneCommand) error { return d.OpenConversation(c.ID) }),
	"accept": about(func(d phoneDevice, c handset.Contact, _ phoneCommand) error { return d.AcceptChange(c.ID) }),
	"block":  about(func(d phoneDevice, c handset.Contact, _ phoneCommand) error { return d.Block(c.ID) }),
	"unblock": about(func(d phoneDevice, c handset.Contact, _ phoneCommand) error {
		return d.Unblock(c.ID)
	}),
	"mode":    about(setPhoneMode),
	"safety":  (*phoneScript).safety,
	"visible": (*phoneScript).visible,
	"export": func(s *phoneScript, _ context.Context, c phoneCommand) (phoneLine, error) {
		return nil, exportTo(s.dev, c.File)
	},
	"receipt": func(s *phoneScript, _ context.Context, c phoneCommand) (phoneLine, error) {
		return nil, saveTo(c.File, s.dev.WriteReceipt)
	},
}

// about is a command about one contact.
func about(f func(phoneDevice, handset.Contact, phoneCommand) error) func(*phoneScript, context.Context, phoneCommand) (phoneLine, error) {
	return func(s *phoneScript, _ context.Context, c phoneCommand) (phoneLine, error) {
		con, err := s.find(orElse(c.With, c.To))
		if err != nil {
			return nil, err
		}
		return nil, f(s.dev, con, c)
	}
}

func setPhoneMode(d phoneDevice, c handset.Contact, cmd phoneCommand) error {
	mode, ok := phoneModes[cmd.Mode]
	if !ok && cmd.Mode != "" {
		return errors.New(`mode is device, gateway, ask, never or ""`)
	}
	return d.SetMode(c.ID, mode)
}

// find reads a contact's id, number, dialled code or name; a name must be the only one of its kind.
func (s *phoneScript) find(who string) (handset.Contact, error) {
	n, _ := wire.ParseNumber(who)
	id, _ := strconv.ParseUint(who, 10, 32)
	var named []handset.Contact
	for _, c := range s.dev.Contacts() {
		if !n.IsZero() && c.Number == n || string(c.Dialled) == who && who != "" {
			return c, nil
		}
		if c.Name == who && who != "" || id != 0 && uint64(c.ID) == id {
			named = append(named, c)
		}
	}
	if len(named) == 1 {
		return named[0], nil
	}
	return handset.Contact{}, fmt.Errorf("%d contacts are called that; give a name, number or id of one", len(named))
}

func (s *phoneScript) notice(_ context.Context, c phoneCommand) (phoneLine, error) {
	n := s.dev.Notice(orElse(c.Lang, s.settings.Lang))
	return phoneLine{"notice": n.Text, "lang": n.Lang, "hash": hex.EncodeToString(n.Hash[:])}, nil
}

var errScopes = errors.New("scopes are messaging, presence and gateway, and messaging is one of them")

func phoneScopes(names []string) (wire.Scope, error) {
	if len(names) == 0 {
		return wire.ScopeMessaging | wire.ScopePresence, nil
	}
	known := map[string]wire.Scope{"messaging": wire.ScopeMessaging, "presence": wire.ScopePresence, "gateway": wire.ScopeGateway}
	var all wire.Scope
	for _, n := range names {
		if known[n] == 0 {
			return 0, errScopes
		}
		all |= known[n]
	}
	if !all.Has(wire.ScopeMessaging) {
		return 0, errScopes
	}
	return all, nil
}

// optIn is the user's yes to the notice: of a new phone it asks for the password, of one that has a
// certificate it switches on. [U-1]
func (s *phoneScript) optIn(ctx context.Context, c phoneCommand) (phoneLine, error) {
	n := s.dev.Notice(orElse(c.Lang, s.settings.Lang))
	if c.Notice != "" && c.Notice != hex.EncodeToString(n.Hash[:]) {
		return nil, handset.ErrNotice
	}
	scopes, err := phoneScopes(c.Scopes)
	if err != nil {
		return nil, err
	}
	if s.dev.Status().Enrolled && c.Number == "" {
		if err := s.dev.Accept(n); err != nil {
			return nil, err
		}
		return phoneLine{"on": true}, s.dev.OptIn(ctx, scopes, wire.Listed)
	}
	number, err := wire.ParseNumber(c.Number)
	if err != nil {
		return nil, err
	}
	if err := s.dev.Enrol(ctx, number, n); err != nil {
		return nil, err
	}
	s.scopes, s.settings.Lang = scopes, n.Lang
	return phoneLine{"next": "otp"}, s.save(s.settings)
}

func (s *phoneScript) password(ctx context.Context, c phoneCommand) (phoneLine, error) {
	if s.scopes == 0 {
		s.scopes, _ = phoneScopes(nil) // the optin was before a restart
	}
	if err := s.dev.Confirm(ctx, onlyDigits(c.Code)); err != nil {
		return nil, err
	}
	return phoneLine{"on": true}, s.dev.OptIn(ctx, s.scopes, wire.Listed)
}

func (s *phoneScript) add(ctx context.Context, c phoneCommand) (phoneLine, error) {
	id, err := handset.ContactID(0), error(nil)
	if fallback.OwnSMSOnly(c.Number) && c.Number != "" { // [U-11]
		id, err = s.dev.AddDialled(orElse(c.Name, c.Number), c.Number)
	} else if n, bad := wire.ParseNumber(c.Number); bad != nil {
		err = bad
	} else {
		id, err = s.dev.AddContact(ctx, orElse(c.Name, c.Number), n)
	}
	return phoneLine{"contact": id}, err
}

func (s *phoneScript) send(ctx context.Context, c phoneCommand) (phoneLine, error) {
	con, err := s.find(orElse(c.To, c.With))
	if err != nil {
		return nil, err
	}
	id, err := s.dev.Send(ctx, con.ID, c.Text)
	return phoneLine{"contact": con.ID, "id": id}, err
}

var phonePaths = map[string]fallback.Path{"ip": fallback.PathIP, "device": fallback.PathDevice, "gateway": fallback.PathGateway}

func (s *phoneScript) again(ctx context.Context, c phoneCommand) (phoneLine, error) {
	via, ok := phonePaths[c.Via]
	if !ok {
		return nil, errors.New("via is ip, device or gateway")
	}
	return nil, s.dev.SendAgain(ctx, c.ID, via)
}

func (s *phoneScript) erase(_ context.Context, c phoneCommand) (phoneLine, error) {
	if c.ID != 0 {
		return nil, s.dev.DeleteText(c.ID)
	}
	con, err := s.find(c.With)
	if err != nil {
		return nil, err
	}
	return nil, s.dev.DeleteConversation(con.ID)
}

func (s *phoneScript) safety(_ context.Context, c phoneCommand) (phoneLine, error) {
	con, err := s.find(c.With)
	if err != nil {
		return nil, err
	}
	digits, err := s.dev.SafetyNumber(con.ID)
	return phoneLine{"safety": digits}, err
}

func (s *phoneScript) visible(_ context.Context, c phoneCommand) (phoneLine, error) {
	rules := map[string]handset.VisibleTo{"contacts": handset.Contacts, "anyone": handset.Anyone, "nobody": handset.Nobody}
	v, ok := rules[c.Visible]
	if !ok {
		return nil, errors.New("visible is contacts, anyone or nobody")
	}
	if err := s.dev.SetVisibleTo(v); err != nil {
		return nil, err
	}
	s.settings.Visible = v
	return nil, s.save(s.settings)
}

func (s *phoneScript) status() phoneLine {
	snap := phoneSnapshot{status: s.dev.Status(), proofs: s.dev.Proofs()}
	l := phoneLine{
		"enrolled": snap.status.Enrolled, "connected": snap.status.Connected, "on": snap.status.On, "scopes": scopeWords(snap.scopes()),
	}
	if why := snap.status.Reason; why != 0 {
		l["reason"] = why.String()
	}
	if !snap.status.Number.IsZero() {
		l["number"] = snap.status.Number.E164()
	}
	return l
}

func (s *phoneScript) contacts() phoneLine {
	list := []phoneLine{}
	for _, c := range s.dev.Contacts() {
		list = append(list, phoneLine{
			"id": c.ID, "name": c.Name, "number": shownNumber(c), "colour": c.Colour.String(), "session": c.Session,
			"sms_only": c.Dialled != "", "changed": c.Changed, "blocked": c.Blocked,
		})
	}
	return phoneLine{"contacts": list}
}

func (s *phoneScript) texts(_ context.Context, c phoneCommand) (phoneLine, error) {
	con, err := s.find(c.With)
	if err != nil {
		return nil, err
	}
	list := []phoneLine{}
	for _, t := range s.dev.Texts(con.ID) {
		list = append(list, textLine(t, con))
	}
	return phoneLine{"contact": con.ID, "texts": list}, nil
}

func textLine(t handset.Text, c handset.Contact) phoneLine {
	_, sim := simulated(t, c)
	return phoneLine{
		"id": t.ID, "out": t.Out, "text": t.Body, "state": t.State.String(), "action": t.Action.String(), "parts": t.Parts,
		"words": stateWords(t), "also_sms": t.AlsoSMS, "simulated": sim, "at": t.At.UTC().Format(time.RFC3339),
	}
}
