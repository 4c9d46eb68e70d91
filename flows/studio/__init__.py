"""The studio: a page in the browser that shows what was asked of a policy beside what was obtained, and takes ratings of it.

| module | what |
|---|---|
| `session` | what one visitor has set, and what a press of the button therefore asks for |
| `findings` | what the reward model and the rules find in an answer |
| `history`, `ratings` | what is kept in the work directory |
| `snippets`, `presets` | an answer's request as a command; points of the front |
| `workshop`, `voice` | the loaded models, which answer all pages at once |
| `page`, `settings_panel`, `answer_card`, `preset_picture`, `drawer`, `server` | NiceGUI, and nothing but how things look |
"""
