package main

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// composeFile is what docker-compose.yml may say: a key that is not here is an error, so that nothing
// unseen, like privileged, can stand there.
type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
	} `yaml:"networks"`
	Volumes map[string]struct{} `yaml:"volumes"`

	Hardened any `yaml:"x-hardened"` // anchors
	Bluejay  any `yaml:"x-bluejay"`
	Kannel   any `yaml:"x-kannel"`
	Healthy  any `yaml:"x-healthy"`
}

type composeService struct {
	Image       string                 `yaml:"image"`
	Build       composeBuild           `yaml:"build"`
	Command     []string               `yaml:"command"`
	User        string                 `yaml:"user"`
	ReadOnly    bool                   `yaml:"read_only"`
	CapDrop     []string               `yaml:"cap_drop"`
	SecurityOpt []string               `yaml:"security_opt"`
	Restart     string                 `yaml:"restart"`
	Grace       string                 `yaml:"stop_grace_period"`
	Logging     any                    `yaml:"logging"`
	Networks    []string               `yaml:"networks"`
	Ports       []string               `yaml:"ports"`
	Volumes     []string               `yaml:"volumes"`
	DependsOn   map[string]composeWait `yaml:"depends_on"`
	Healthcheck composeHealth          `yaml:"healthcheck"`
}

type composeBuild struct {
	Context string `yaml:"context"`
	Target  string `yaml:"target"`
}

type composeWait struct {
	Condition string `yaml:"condition"`
}

type composeHealth struct {
	Test     []string `yaml:"test"`
	Interval string   `yaml:"interval"`
	Timeout  string   `yaml:"timeout"`
	Retries  int      `yaml:"retries"`
	Start    string   `yaml:"start_period"`
}

// mount is one of a service's volumes: from is a volume's name, or a path that begins with a dot.
type mount struct {
	from, at string
	ro       bool
}

// mounts lists a service's, the deepest first.
func (s composeService) mounts() []mount {
	var ms []mount
	for _, v := range s.Volumes {
		part := strings.Split(v, ":")
		ms = append(ms, mount{part[0], part[1], len(part) == 3 && part[2] == "ro"})
	}
	slices.SortStableFunc(ms, func(a, b mount) int { return len(b.at) - len(a.at) })
	return ms
}

// oneShot is a service that others wait for the end of.
func (c composeFile) oneShot(name string) bool {
	for _, s := range c.Services {
		if s.DependsOn[name].Condition == "service_completed_successfully" {
			return true
		}
	}
	return false
}

// repository is the module's root, from here.
const repository = "../.."

func repositoryFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var composeDefault = regexp.MustCompile(`\$\{[A-Z_]+:-([^}]*)\}`)

// loadCompose reads docker-compose.yml, with the defaults for its variables.
func loadCompose(t *testing.T) composeFile {
	t.Helper()
	text := composeDefault.ReplaceAllString(repositoryFile(t, "docker-compose.yml"), "$1")
	var c composeFile
	// To this library a key that overrides a merged one is a duplicate; the one that stands there wins.
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict(), yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	return c
}

// imageStage is a stage of the Dockerfile.
type imageStage struct {
	from, user string
	entrypoint string
	files      []string // paths that are copied into it
	owned      []string // those that belong to the user that it runs as
}

const imageUser = "65532:65532"

var stageLine = regexp.MustCompile(`^FROM (\S+) AS (\S+)$`)

// loadStages reads the Dockerfile: the few instructions it has.
func loadStages(t *testing.T) map[string]*imageStage {
	t.Helper()
	stages, at := map[string]*imageStage{}, &imageStage{}
	for line := range strings.Lines(repositoryFile(t, "Dockerfile")) {
		line = strings.TrimSpace(line)
		word := strings.Fields(line)
		switch {
		case stageLine.MatchString(line):
			m := stageLine.FindStringSubmatch(line)
			at = &imageStage{from: m[1]}
			stages[m[2]] = at
		case len(word) < 2:
		case word[0] == "USER":
			at.user = word[1]
		case word[0] == "ENTRYPOINT":
			at.entrypoint = strings.Trim(word[1], `[]"`)
		case word[0] == "COPY":
			at.files = append(at.files, word[len(word)-1])
			if slices.Contains(word, "--chown="+imageUser) {
				at.owned = append(at.owned, word[len(word)-1])
			}
		case word[0] == "FROM":
			t.Errorf("%q: every stage has a name", line)
		}
	}
	return stages
}

// keyReaders says who may mount a volume of keys, besides the one-shot that makes them: "rw" to write, too.
// Whoever is not here sees none.
var keyReaders = map[string]map[string]string{
	"keys-broker": {"broker": "ro"}, "keys-registrar": {"registrar": "ro"}, "keys-worker": {"worker": "rw"},
	"keys-operator": {}, "keys-nats": {"nats": "ro"}, "keys-kannel": {"kannel": "ro", "smsbox": "ro"},
}

// violations lists what a compose file does that a node's must not.
func (c composeFile) violations(stages map[string]*imageStage) []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for name, s := range c.Services {
		stage := stages[s.Build.Target]
		if stage == nil {
			add("%s: the Dockerfile has no stage %q", name, s.Build.Target)
			continue
		}
		bad = append(bad, s.hardening(name, stage)...)
		bad = append(bad, c.health(name, stage)...)
		bad = append(bad, c.storage(name, stage)...)
		if strings.Contains(s.Image, "/") || strings.Contains(stage.from, "/") {
			add("%s: an image names a registry or an account there", name)
		}
		if len(s.Ports) > 0 && name != "broker" {
			add("%s: published; only the broker is", name)
		}
	}
	return append(bad, c.neighbours()...)
}

func (s composeService) hardening(name string, stage *imageStage) []string {
	var bad []string
	for what, ok := range map[string]bool{
		"runs as another user": s.User == imageUser && stage.user == imageUser, "writable root": s.ReadOnly,
		"has capabilities":         slices.Equal(s.CapDrop, []string{"ALL"}),
		"may gain privileges":      slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}),
		"less time than it needs":  s.Grace == "20s", // stopTime is 15 s
		"a log without a bound":    s.Logging != nil,
		"no command":               len(s.Command) > 0,
		"its program is not there": stage.entrypoint != "" && slices.Contains(stage.files, stage.entrypoint) || strings.HasPrefix(s.Command[0], "/usr/"),
	} {
		if !ok {
			bad = append(bad, name+": "+what)
		}
	}
	return bad
}

// health wants a check of every service that stays, with a program that is in its image.
func (c composeFile) health(name string, stage *imageStage) []string {
	s := c.Services[name]
	if c.oneShot(name) {
		return nil
	}
	test := s.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" || s.Healthcheck.Timeout == "" || s.Healthcheck.Retries == 0 || s.Restart != "unless-stopped" {
		return []string{name + ": no health check, or it does not start again"}
	}
	if !slices.Contains(stage.files, test[1]) && !strings.HasPrefix(stage.from, "debian:") {
		return []string{name + ": the program of its health check is not in its image"}
	}
	return nil
}

// storage wants each volume mounted where it may be, by whom it may be, on a folder of the image that
// belongs to the user.
func (c composeFile) storage(name string, stage *imageStage) []string {
	var bad []string
	for _, m := range c.Services[name].mounts() {
		readers, keys := keyReaders[m.from]
		mode := "rw"
		if m.ro {
			mode = "ro"
		}
		switch {
		case keys && !c.oneShot(name) && readers[name] != mode:
			bad = append(bad, fmt.Sprintf("%s: mounts %s %s", name, m.from, mode))
		case strings.HasPrefix(m.from, ".") && (!m.ro || !strings.HasPrefix(m.from, "./deploy/")):
			bad = append(bad, fmt.Sprintf("%s: mounts %s", name, m.from))
		case !strings.HasPrefix(m.from, ".") && !slices.ContainsFunc(stage.owned, func(dir string) bool { return strings.HasPrefix(m.at+"/", dir+"/") }):
			bad = append(bad, fmt.Sprintf("%s: %s is not a folder of %s in its image", name, m.at, imageUser))
		}
	}
	return bad
}

// neighbours wants that of the node only the worker reaches Kannel, and that only the broker is on a
// network with a way out.
func (c composeFile) neighbours() []string {
	var bad []string
	share := func(a, b string) bool {
		return slices.ContainsFunc(c.Services[a].Networks, func(n string) bool { return slices.Contains(c.Services[b].Networks, n) })
	}
	for name, s := range c.Services {
		for _, n := range s.Networks {
			if !c.Networks[n].Internal && name != "broker" {
				bad = append(bad, name+": on a network with a way out")
			}
		}
		if len(s.Networks) == 0 {
			bad = append(bad, name+": on the default network")
		}
		kannels := s.Build.Target == "kannel"
		for _, other := range []string{"keys", "nats", "broker", "registrar"} {
			if kannels && share(name, other) {
				bad = append(bad, fmt.Sprintf("%s: reaches %s", name, other))
			}
		}
		if kannels && name != "smsbox" && share(name, "worker") {
			bad = append(bad, name+": reaches the worker")
		}
	}
	return bad
}

// TestComposeFile: docker-compose.yml keeps processes apart, as the keys of a node are.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	c, stages := loadCompose(t), loadStages(t)
	for _, v := range c.violations(stages) {
		t.Error(v)
	}
	for volume := range keyReaders {
		if _, ok := c.Volumes[volume]; !ok {
			t.Errorf("no volume %s", volume)
		}
	}
	if want := []string{"broker", "fakesmsc", "kannel", "keys", "nats", "registrar", "smsbox", "worker"}; !slices.Equal(slices.Sorted(maps.Keys(c.Services)), want) {
		t.Errorf("services %v, want %v", slices.Sorted(maps.Keys(c.Services)), want)
	}
	if keys := c.Services["keys"]; keys.Restart != "no" || !c.oneShot("keys") {
		t.Errorf("keys are made once, not with restart %q", keys.Restart)
	}
	for name, s := range c.Services {
		for _, arg := range s.Command {
			if strings.HasPrefix(arg, "/") && !s.has(stages[s.Build.Target], arg) {
				t.Errorf("%s: %s is neither mounted nor in its image", name, arg)
			}
		}
	}
}

// has reports whether a path is mounted, in the image, or of a Debian package.
func (s composeService) has(stage *imageStage, file string) bool {
	under := func(dir string) bool { return strings.HasPrefix(file+"/", dir+"/") }
	return slices.ContainsFunc(s.mounts(), func(m mount) bool { return under(m.at) }) ||
		strings.HasPrefix(stage.from, "debian:") && under("/usr")
}

// TestComposeFileBites: each property is looked at; a file without it is found out.
func TestComposeFileBites(t *testing.T) {
	t.Parallel()
	stages := loadStages(t)
	for want, spoil := range map[string]func(s map[string]composeService){
		"broker: runs as another user":         change("broker", func(s *composeService) { s.User = "0:0" }),
		"nats: writable root":                  change("nats", func(s *composeService) { s.ReadOnly = false }),
		"worker: has capabilities":             change("worker", func(s *composeService) { s.CapDrop = nil }),
		"kannel: may gain privileges":          change("kannel", func(s *composeService) { s.SecurityOpt = nil }),
		"broker: no health check":              change("broker", func(s *composeService) { s.Healthcheck.Test = nil }),
		"nats: the program of its health":      change("nats", func(s *composeService) { s.Healthcheck.Test[1] = "curl" }),
		"registrar: mounts keys-worker ro":     change("registrar", func(s *composeService) { s.Volumes = append(s.Volumes, "keys-worker:/x:ro") }),
		"registrar: mounts keys-registrar rw":  change("registrar", func(s *composeService) { s.Volumes = []string{"keys-registrar:/run/keys"} }),
		"fakesmsc: mounts keys-kannel ro":      change("fakesmsc", func(s *composeService) { s.Volumes = []string{"keys-kannel:/run/keys:ro"} }),
		"broker: mounts ./keys":                change("broker", func(s *composeService) { s.Volumes = append(s.Volumes, "./keys:/keys:ro") }),
		"nats: /elsewhere is not a folder":     change("nats", func(s *composeService) { s.Volumes = append(s.Volumes, "nats-data:/elsewhere") }),
		"smsbox: published":                    change("smsbox", func(s *composeService) { s.Ports = []string{"13013:13013"} }),
		"smsbox: reaches nats":                 change("smsbox", func(s *composeService) { s.Networks = append(s.Networks, "bus") }),
		"kannel: reaches the worker":           change("kannel", func(s *composeService) { s.Networks = append(s.Networks, "sms") }),
		"worker: on a network with a way out":  change("worker", func(s *composeService) { s.Networks = append(s.Networks, "outside") }),
		"fakesmsc: on the default network":     change("fakesmsc", func(s *composeService) { s.Networks = nil }),
		"nats: an image names a registry":      change("nats", func(s *composeService) { s.Image = "registry.example.net/nats" }),
		"worker: the Dockerfile has no stage":  change("worker", func(s *composeService) { s.Build.Target = "latest" }),
		"worker: less time than it needs":      change("worker", func(s *composeService) { s.Grace = "" }),
		"kannel: its program is not there":     change("kannel", func(s *composeService) { s.Command[0] = "bearerbox" }),
		"registrar: no health check, or it do": change("registrar", func(s *composeService) { s.Restart = "no" }),
	} {
		c := loadCompose(t)
		spoil(c.Services)
		bad := c.violations(stages)
		if !slices.ContainsFunc(bad, func(v string) bool { return strings.HasPrefix(v, want) }) {
			t.Errorf("not found: %q; found %q", want, bad)
		}
	}
}

func change(name string, f func(*composeService)) func(map[string]composeService) {
	return func(all map[string]composeService) {
		s := all[name]
		f(&s)
		all[name] = s
	}
}

// TestComposeCommands: what the roles are told, they understand; who calls whom is who is there.
func TestComposeCommands(t *testing.T) {
	t.Parallel()
	c := loadCompose(t)
	calls := map[string]string{} // host: who calls it
	for name, s := range c.Services {
		if s.Build.Target == "bluejay" {
			if err := understood(s.Command); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, arg := range s.Command {
			if u, err := url.Parse(arg); err == nil && u.Host != "" {
				calls[u.Hostname()] = name
			}
		}
	}
	routes, err := readSMSConfig(filepath.Join(repository, "deploy/routes.toml"))
	if err != nil {
		t.Fatal(err)
	}
	r := routes.Routes[0]
	if i := slices.Index(c.Services["keys"].Command, "--kannel"); r.Name != routeKannel || routes.Callbacks.URL != c.Services["keys"].Command[i+1] {
		t.Errorf("route %q, callbacks at %s: not what the keys are made for", r.Name, routes.Callbacks.URL)
	}
	if path.Base(r.PasswordFile) != fileLogin || path.Base(r.SecretFile) != fileCallback {
		t.Errorf("secrets in %s and %s", r.PasswordFile, r.SecretFile)
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	calls[u.Hostname()] = "worker"
	for host, by := range calls {
		if _, ok := c.Services[host]; !ok {
			t.Errorf("%s calls %s, which is no service", by, host)
		}
	}
	broker := c.Services["broker"]
	i := slices.Index(broker.Command, "--listen")
	_, port, _ := strings.Cut(broker.Command[i+1], ":")
	if want := []string{"8883:" + port}; !slices.Equal(broker.Ports, want) {
		t.Errorf("published %v, want %v", broker.Ports, want)
	}
}

// understood reports whether a command and its flags and arguments are ones that bluejay has.
func understood(args []string) error {
	cmd, rest, err := rootCmd().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil && cmd.Run == nil && cmd.RunE == nil {
		err = fmt.Errorf("no command: %q", args)
	}
	if err == nil && cmd.Args != nil {
		err = cmd.Args(cmd, cmd.Flags().Args())
	}
	return err
}

// TestComposePage: the commands that docs/deploy.md gives are ones that bluejay has, and what it says of
// services and volumes is of those that there are.
func TestComposePage(t *testing.T) {
	t.Parallel()
	c, page := loadCompose(t), repositoryFile(t, "docs/deploy.md")
	given := regexp.MustCompile(`(?m)^    (?:docker-compose run --rm keys|bluejay) (.*)$`).FindAllStringSubmatch(page, -1)
	if len(given) < 4 {
		t.Errorf("%d commands on the page", len(given))
	}
	for _, m := range given {
		if err := understood(strings.Fields(m[1])); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	for name := range c.Services {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("nothing of the service %s", name)
		}
	}
	for name := range c.Volumes {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("nothing of the volume %s", name)
		}
	}
}

// TestComposeNoSecrets: no secret stands in what is checked in, and none is sent to a builder of images.
func TestComposeNoSecrets(t *testing.T) {
	t.Parallel()
	said := regexp.MustCompile(`(?im)^[^#\n]*(password|secret|token)\s*[:=]`)
	for _, name := range []string{"docker-compose.yml", "Dockerfile", "deploy/routes.toml", "deploy/kannel/kannel.conf"} {
		if m := said.FindString(repositoryFile(t, name)); m != "" {
			t.Errorf("%s: %q", name, m)
		}
	}
	lines := strings.Split(repositoryFile(t, ".dockerignore"), "\n")
	lines = slices.DeleteFunc(lines, func(s string) bool { return s == "" || strings.HasPrefix(s, "#") })
	if lines[0] != "*" {
		t.Fatal("the builder is sent everything that is not named")
	}
	for _, line := range lines[1:] {
		if kept, ok := strings.CutPrefix(line, "!"); ok {
			if _, err := os.Stat(filepath.Join(repository, kept)); err != nil || strings.HasPrefix(kept, ".") {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	kannel := repositoryFile(t, "deploy/kannel/kannel.conf")
	for include := range strings.SplitSeq(kannel, "\ninclude = ") {
		if _, rest, ok := strings.Cut(include, "\n"); ok && strings.HasPrefix(include, "/") && rest != "" && !strings.HasPrefix(rest, "\n") {
			t.Errorf("after the include of %.40q the group goes on: Kannel would end it there", include)
		}
	}
	if strings.Count(kannel, "include = /run/keys/") != 3 {
		t.Error("Kannel's secrets are not included")
	}
}
