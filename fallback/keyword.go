package fallback

import (
	"regexp"
	"strings"
	"unicode"
)

// Keyword is what an incoming SMS asks for. Zero value: nothing.
type Keyword byte

// Keywords. [F-18]
const (
	KeywordNone  Keyword = iota
	KeywordStop          // no more SMS
	KeywordStart         // SMS again
	KeywordHelp          // what is this?
)

// String is the keyword's name, "none" for none.
func (k Keyword) String() string {
	if k > KeywordHelp {
		return "invalid"
	}
	return [...]string{"none", "stop", "start", "help"}[k]
}

// maxRead is how many bytes of an incoming text are looked at; six SMS have fewer.
const maxRead = 2 << 10

// ReadKeyword reads an incoming SMS. A text, or its first line, that is nothing but a keyword is
// certain. In free text a sentence must ask for an end to messages in so many words: a wrong "stop"
// takes somebody's consent away, so "stop it" and "stop by the shop" are nothing. [F-18]
func ReadKeyword(text string) Keyword {
	sentences, firstLine := normal(text[:min(len(text), maxRead)])
	if k := keywordAlone(strings.Join(sentences, " ")); k != KeywordNone {
		return k
	}
	if k := keywordAlone(firstLine); k != KeywordNone {
		return k
	}
	for _, s := range sentences {
		if wantsEnd.MatchString(s) {
			return KeywordStop
		}
	}
	return KeywordNone
}

// alone are the texts that are a keyword as a whole, beside those that begin with a stopWord.
var alone = map[string]Keyword{
	"start": KeywordStart, "unstop": KeywordStart, "start again": KeywordStart, "opt in": KeywordStart,
	"optin": KeywordStart, "resubscribe": KeywordStart, "старт": KeywordStart, "恢复": KeywordStart,
	"help": KeywordHelp, "info": KeywordHelp, "aide": KeywordHelp, "ayuda": KeywordHelp, "hilfe": KeywordHelp,
	"ajuda": KeywordHelp, "aiuto": KeywordHelp, "помощь": KeywordHelp, "帮助": KeywordHelp,
	"reply stop": KeywordStop, "text stop": KeywordStop, "send stop": KeywordStop, "remove me": KeywordStop,
	"opt out": KeywordStop, "opt me out": KeywordStop, "to stop": KeywordStop, "darse de baja": KeywordStop,
	"i want to stop": KeywordStop,
}

// stopWords end messages when they stand alone, or with nothing but politeness and objects.
var stopWords = words(`stop stopp stopall stopsms stoptexts unsubscribe unsubscribed unsub cancel end quit revoke optout
	arret arreter parar pare baja cancelar sair abmelden abbestellen afmelden basta desabonner desinscrire
	стоп отписаться отписка 退订 退訂 取消 取消订阅 停止 拒收 td`)

// stopObjects may follow a stopWord and change nothing.
var stopObjects = words("all sms text texts texting message messages messaging msg msgs alerts spam")

// politeness is cut off both ends.
var politeness = words("please pls plz thanks thx ty now immediately asap ok hi hello bluejay bitte merci gracias svp por favor")

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

// keywordAlone reads a text that is nothing but a keyword.
func keywordAlone(text string) Keyword {
	w := strings.Fields(strings.ReplaceAll(text, "thank you", "thanks"))
	for len(w) > 0 && politeness[w[0]] {
		w = w[1:]
	}
	for len(w) > 0 && politeness[w[len(w)-1]] {
		w = w[:len(w)-1]
	}
	if k, ok := alone[strings.Join(w, " ")]; ok {
		return k
	}
	if len(w) == 0 || !stopWords[w[0]] {
		return KeywordNone
	}
	for _, s := range w[1:] {
		if !stopWords[s] && !stopObjects[s] && !politeness[s] {
			return KeywordNone
		}
	}
	return KeywordStop
}

// wantsEnd matches a sentence that asks for an end to messages. It must begin with the request or
// with how people lead up to one: "don't stop texting me" and "why did you stop texting me" do not.
var wantsEnd = regexp.MustCompile(`^(?:` + lead + `)*(?:` + strings.Join([]string{
	ceasing + ` (?:texting|messaging|contacting|smsing|spamming|bothering|harassing|writing to|sending to|writing) ` + me + anyTail,
	ceasing + ` (?:texting|messaging|contacting|smsing|spamming)` + tail,
	ceasing + ` (?:sending|giving) (?:me |us )?(?:any |all |more |of |the |these |those |your )*` + messages + tail,
	`(?:` + ceasing + `|end|cancel) (?:all |of |the |these |those |your )+` + messages + tail,
	ceasing + ` sending (?:me |us )(?:these|those|this|stuff|things)` + tail,
	`how (?:do|can) i (?:stop|end) (?:getting |receiving )?(?:all |the |these |those |your )*` + messages + tail,
	never + ` (?:ever )?(?:text|message|msg|contact|sms|spam|bother|write to|write) ` + me + tail,
	never + ` (?:ever )?(?:text|message|msg|contact|sms|spam|bother|write to|write) ` + me + ` (?:again|anymore|any more|ever)(?: .*)?`,
	never + ` (?:ever )?send (?:me |us )?(?:any |more |these |those |your )*` + messages + tail,
	`i (?:dont|do not|no longer) (?:want|wish|need)(?: to (?:get|receive|have))? (?:any |more |these |those |your |anymore )*` + messages + tail,
	`no more ` + messages + tail,
	`leave (?:me|us) alone` + tail,
	`lose my number` + tail,
	`(?:remove|delete|erase|take) (?:me|my (?:phone )?number)(?: (?:off|from|out of))?(?: (?:your|this|the|all|any|mailing|sms|text|contact|marketing))*(?: (?:lists?|database|system|service|contacts))?` + tail,
	`(?:i (?:want|would like|d like|wish) to )?(?:unsubscribe|opt me out|opt out|optout)(?: me| us| ` + me + `)?(?: (?:from|of) (?:your|this|the|these|all|any|text|sms)(?: [a-z]+)?(?: ` + messages + `)?)?` + tail,
	`(?:arretez|arrete) de m ?(?:envoyer|ecrire|contacter)(?: .*)?`,
	`ne m ?(?:envoyez|ecrivez|contactez|envoie|ecris|contacte) plus(?: .*)?`,
	`(?:dejen?|para|paren) de (?:enviarme|mandarme|escribirme|contactarme)(?: .*)?`,
	`no me (?:envies?|envien|mandes?|manden|escribas?|escriban|contacten) mas(?: .*)?`,
	`(?:pare|parem) de me (?:enviar|mandar)(?: .*)?`,
	`nao (?:me )?(?:envie|enviem|mande|mandem)(?: me)? mais(?: .*)?`,
	`(?:keine|keine weiteren) (?:sms|nachrichten)(?: mehr)?` + tail,
	`(?:schreib|schreiben sie|schickt|schicken sie) mir (?:nicht|keine sms|keine nachrichten) mehr(?: .*)?`,
	`lass(?:t|en sie)? mich in ruhe` + tail,
	`не (?:пишите|пиши|присылайте|шлите) (?:мне )?больше(?: .*)?`, `больше не (?:пишите|пиши|присылайте|шлите)(?: .*)?`,
	`.*(?:(?:不要|别|請勿|请勿|勿)再(?:给我|給我)?发|不要再發|停止发送|停止發送|我要退订|请退订|請退訂).*`,
}, `|`) + `)$`)

// Pieces of wantsEnd. A tail is what may follow a request without limiting it, as "while you drive"
// would; after "me" anything may follow that does not begin like a limit.
const (
	lead = `(?:please|pls|plz|kindly|just|ok|okay|hi|hello|hey|no|now|look|sorry|seriously|wrong number|not interested|` +
		`who is this|omg|ffs|(?:can|could|would|will) (?:you|u)|i (?:said|told you to|asked you to|want you to|need you to)|` +
		`you (?:must|need to|have to|should)|for the last time|once and for all|again|and|but|so) `
	ceasing  = `(?:stop|quit|cease)`
	never    = `(?:dont|do not|don t|never|stop and dont)`
	me       = `(?:me|us|this number|my number|this phone|my phone|here)`
	messages = `(?:texts?|texting|sms|smses|text messages?|messages?|messaging|msgs?|spam|alerts|notifications)`
	tail     = `(?: (?:please|pls|plz|now|right now|already|immediately|again|anymore|any more|ever|ever again|forever|for good|ok|` +
		`okay|thanks|thank you|thx|asap|all|at all|from you|to me|to us|to ` + me + `|(?:at|on) (?:this|my) (?:number|phone)|you (?:idiots?|people|guys|creep|morons?)))*`
	anyTail = `(?:` + tail + `| (?:or|i|you|its|it|this|im|we|he|she|they|this|wrong|before|otherwise|and|because|cause|cos|who) .*)`
)

// normal cuts a text into sentences of plain lower-case words with one space between, and its first
// line in the same form. Apostrophes vanish, so that "don't", "don’t" and "dont" are one word.
func normal(text string) (sentences []string, firstLine string) {
	first, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	sentences = sentencesOf(first)
	firstLine = strings.Join(sentences, " ")
	return append(sentences, sentencesOf(rest)...), firstLine
}

func sentencesOf(text string) []string {
	var found []string
	for s := range strings.FieldsFuncSeq(text, endsSentence) {
		if w := strings.Join(strings.FieldsFunc(strings.Map(plainRune, s), isGap), " "); w != "" {
			found = append(found, w)
		}
	}
	return found
}

func endsSentence(r rune) bool {
	return strings.ContainsRune(".!?,;:\n\r()。！？，；：…¿¡", r)
}

func isGap(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// accents maps the letters that keywords of other languages have to plain ones.
var accents = map[rune]rune{
	'á': 'a', 'à': 'a', 'â': 'a', 'ã': 'a', 'ä': 'a', 'å': 'a', 'é': 'e', 'è': 'e', 'ê': 'e', 'ë': 'e', 'í': 'i',
	'ì': 'i', 'î': 'i', 'ï': 'i', 'ó': 'o', 'ò': 'o', 'ô': 'o', 'õ': 'o', 'ö': 'o', 'ú': 'u', 'ù': 'u', 'û': 'u',
	'ü': 'u', 'ç': 'c', 'ñ': 'n',
}

// plainRune is a rune in lower case and without its accent or width; negative where it is dropped.
func plainRune(r rune) rune {
	if r >= '！' && r <= '～' { // full-width ASCII
		r -= '！' - '!'
	}
	switch {
	case strings.ContainsRune("'’‘`´ʼ", r), unicode.In(r, unicode.Mn, unicode.Cf):
		return -1
	}
	r = unicode.ToLower(r)
	if p, ok := accents[r]; ok {
		return p
	}
	return r
}
