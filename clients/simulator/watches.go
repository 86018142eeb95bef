package simulator

import (
	"slices"
	"time"

	"bluejay/wire"
)

// presenceBook is who is really there, who watches whom, and what is due. [P-18]
type presenceBook struct {
	owners   map[wire.Tag]*owner
	watchers map[wire.Tag][]*watch
	blueDue  queue[wire.Tag]
	greyDue  queue[wire.Tag]
	deadDue  queue[wire.Tag]
	goneDue  queue[wire.Tag] // withdrawn: grey at once
	checks   PresenceChecks
}

// PresenceChecks is how often the bounds were looked at: a zero below violations means little if
// these are zero, too.
type PresenceChecks struct{ Blue, Grey int }

// owner is the truth about one tag.
type owner struct {
	who   int
	line  *line // the newest; nil: gone
	since time.Time
}

// watch is one subscription to presence.
type watch struct {
	line  *line
	tag   wire.Tag
	since time.Time
	blue  bool
	told  time.Time
}

func newPresenceBook() presenceBook {
	return presenceBook{owners: map[wire.Tag]*owner{}, watchers: map[wire.Tag][]*watch{}}
}

// ownerUp notes that who connected, or agreed to presence.
func (l *Ledger) ownerUp(c *line, now time.Time) {
	if c.tag.IsZero() || !l.people[c.who].visible || c.over || c.hole {
		return
	}
	o := l.presence.owners[c.tag]
	if o == nil {
		o = &owner{who: c.who}
		l.presence.owners[c.tag] = o
	}
	if o.line != c {
		o.line, o.since = c, now
		l.presence.blueDue.push(now.Add(l.cfg.Blue), c.tag)
	}
}

// ownerGone notes that who is gone; everybody has to see grey within the bound.
func (l *Ledger) ownerGone(c *line, now time.Time, q *queue[wire.Tag], bound time.Duration) {
	o := l.presence.owners[c.tag]
	if o == nil || o.line != c {
		return
	}
	o.line, o.since = nil, now
	q.push(now.Add(bound), c.tag)
}

func (l *Ledger) watch(c *line, tag wire.Tag, now time.Time) {
	if slices.ContainsFunc(c.watches, func(w *watch) bool { return w.tag == tag }) {
		return
	}
	w := &watch{line: c, tag: tag, since: now}
	c.watches = append(c.watches, w)
	l.presence.watchers[tag] = append(l.presence.watchers[tag], w)
	if o := l.presence.owners[tag]; o != nil && o.line != nil {
		l.presence.blueDue.push(now.Add(l.cfg.Blue), tag)
	}
}

func (l *Ledger) unwatch(c *line, tag wire.Tag) {
	mine := func(w *watch) bool { return w.line == c && w.tag == tag }
	c.watches = slices.DeleteFunc(c.watches, mine)
	left := slices.DeleteFunc(l.presence.watchers[tag], mine)
	if l.presence.watchers[tag] = left; len(left) == 0 {
		delete(l.presence.watchers, tag)
	}
}

// hears notes the broker's word on a tag to one watcher.
func (l *Ledger) hears(c *line, tag wire.Tag, blue bool, now time.Time) {
	i := slices.IndexFunc(c.watches, func(w *watch) bool { return w.tag == tag })
	if i < 0 {
		if l.cfg.Alone && !c.over && !recently(c, tag) { // over: it has said DISCONNECT, and this was on its way
			l.fail(WrongTag, now, 0, "%d was told about a tag it does not watch", c.who)
		}
		return
	}
	w, o := c.watches[i], l.presence.owners[tag]
	switch {
	case o == nil:
	case blue && !w.blue && o.line != nil:
		l.figures.Blue(now.Sub(later(o.since, w.since)))
	case !blue && w.blue && o.line == nil:
		l.figures.Grey(now.Sub(o.since))
	case !blue && o.line != nil && !l.people[o.who].leaving && now.Sub(o.since) > l.cfg.Blue+l.cfg.Slack():
		l.fail(FalseGrey, now, 0, "%d was told grey of %d, connected for %s", c.who, o.who, now.Sub(o.since).Round(time.Millisecond))
	}
	w.blue, w.told = blue, now
}

// recently reports whether a word may still be on its way for a watch that has just ended.
func recently(c *line, tag wire.Tag) bool { return slices.Contains(c.left, tag) }

// lookPresence judges the bounds that are due.
func (l *Ledger) lookPresence(now time.Time, slack time.Duration) {
	b := &l.presence
	by := now.Add(-slack)
	for tag, ok := b.blueDue.pop(by); ok; tag, ok = b.blueDue.pop(by) {
		l.lookBlue(tag, now, slack)
	}
	for tag, ok := b.greyDue.pop(by); ok; tag, ok = b.greyDue.pop(by) {
		l.lookGrey(tag, now, l.cfg.Grey)
	}
	for tag, ok := b.deadDue.pop(by); ok; tag, ok = b.deadDue.pop(by) {
		l.lookGrey(tag, now, l.cfg.Dead)
	}
	for tag, ok := b.goneDue.pop(by); ok; tag, ok = b.goneDue.pop(by) {
		l.lookGrey(tag, now, l.cfg.Blue)
	}
}

// lookBlue: everybody who has watched since the bound must see a tag blue whose owner has been there
// since the bound.
func (l *Ledger) lookBlue(tag wire.Tag, now time.Time, slack time.Duration) {
	o, since := l.presence.owners[tag], now.Add(-l.cfg.Blue-slack)
	if o == nil || o.line == nil || o.line.over || o.since.After(since) || l.people[o.who].leaving || !o.line.alive(now) {
		return
	}
	for _, w := range l.presence.watchers[tag] {
		if w.since.After(since) || w.line.over || !w.line.alive(now) {
			continue
		}
		l.presence.checks.Blue++
		if !w.blue {
			l.fail(LateBlue, now, 0, "%d does not see %d blue, connected for %s", w.line.who, o.who, now.Sub(o.since).Round(time.Millisecond))
		}
	}
}

// lookGrey: nobody may see a tag blue whose owner has been gone since the bound.
func (l *Ledger) lookGrey(tag wire.Tag, now time.Time, bound time.Duration) {
	o := l.presence.owners[tag]
	if o == nil || o.line != nil || now.Sub(o.since) < bound {
		return
	}
	for _, w := range l.presence.watchers[tag] {
		if w.line.over || !w.line.alive(now) {
			continue
		}
		l.presence.checks.Grey++
		if w.blue {
			l.fail(StaleBlue, now, 0, "%d sees %d blue, gone for %s", w.line.who, o.who, now.Sub(o.since).Round(time.Millisecond))
		}
	}
}

// Presence is how often presence was checked.
func (l *Ledger) Presence() PresenceChecks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.presence.checks
}
