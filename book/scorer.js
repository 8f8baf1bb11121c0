// The order of what a search finds: where the title of a chapter has the words, its lesson first, then its lab.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const words = new URLSearchParams(location.search).get("q") || "";
    const chapter = /^notebooks\/\d\d_/.test(docname) && !anchor;
    if (!chapter || !title.toLowerCase().includes(words.toLowerCase().trim())) return score;
    return score + (docname.endsWith("_lab") ? 150 : 300);
  },
  // All that follows is as Sphinx has it.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: {0: 15, 1: 5, 2: -5},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
